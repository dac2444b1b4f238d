"""docs/api.md: the reference of the API, from the table of endpoints and the types."""

from __future__ import annotations

import types
import typing
from typing import Any, Literal, Union, get_args, get_origin

from .endpoints import ENDPOINTS, PREFIX, Endpoint
from .problems import KINDS
from .schema import Doc, fields_of, summary_of


def markdown() -> str:
    """Return docs/api.md."""
    answers: dict[str, type] = {}
    for endpoint in ENDPOINTS:
        _collect(endpoint.returns, answers)
    return _PAGE.format(
        prefix=PREFIX,
        index="\n".join(_index_row(endpoint) for endpoint in ENDPOINTS),
        requests="\n".join(_request(endpoint) for endpoint in ENDPOINTS if fields_of(endpoint.takes)),
        answers="\n".join(_table(name, cls) for name, cls in sorted(answers.items())),
        problems="\n".join(
            f"| {kind.status} | `urn:ratelimit-service:problem:{kind.name}` | {kind.meaning} |"
            for kind in KINDS
        ),
    )


def _index_row(endpoint: Endpoint) -> str:
    takes = f"[request](#{_anchor(endpoint)})" if fields_of(endpoint.takes) else ""
    returns = (
        f"[{endpoint.returns.__name__}](#{endpoint.returns.__name__.lower()})" if endpoint.returns else ""
    )
    who = "ADMIN_TOKEN" if endpoint.changes else "any"
    return f"| `{endpoint.method} {endpoint.path}` | {who} | {takes} | {returns} | {endpoint.meaning} |"


def _anchor(endpoint: Endpoint) -> str:
    return f"request-of-{endpoint.path[1:]}"


def _request(endpoint: Endpoint) -> str:
    rows = _fields(endpoint.takes)
    title = (
        f"### Request of {endpoint.path[1:]}\n\n"
        f"`{endpoint.method} {PREFIX}{endpoint.path}`. {endpoint.meaning}\n"
    )
    text = "\n".join([title, _HEAD, *rows, ""])
    for item in [each for field in fields_of(endpoint.takes) for each in get_args(field.type)]:
        if hasattr(item, "_fields"):
            text += "\n".join([f"\n### {item.__name__}\n\n{summary_of(item)}\n", _HEAD, *_fields(item), ""])
    return text


_HEAD = "| field | type | default | meaning |\n|---|---|---|---|"


def _fields(cls: type) -> list[str]:
    return [
        f"| `{field.name}` | {_type(field.type)} | {_default(field.needed, field.default)} | "
        f"{_meaning(field.doc, field.type)} |"
        for field in fields_of(cls)
    ]


def _table(name: str, cls: type) -> str:
    rows = [
        f"| `{field.name}` | {_type(field.type)} | {_meaning(field.doc, field.type)} |"
        for field in fields_of(cls)
    ]
    head = f"### {name}\n\n{summary_of(cls)}\n"
    return "\n".join([head, "| field | type | meaning |", "|---|---|---|", *rows, ""])


def _collect(kind: Any, found: dict[str, type]) -> None:
    if typing.is_typeddict(kind):
        if kind.__name__ not in found:
            found[kind.__name__] = kind
            for field in fields_of(kind):
                _collect(field.type, found)
        return
    for each in get_args(kind):
        _collect(each, found)


def _type(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return f"{_type(get_args(kind)[0])} or null"
    if get_origin(kind) is list:
        return f"list of {_type(get_args(kind)[0])}"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if typing.is_typeddict(kind) or hasattr(kind, "_fields"):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    return {str: "text", int: "integer", bool: "boolean", float: "number"}[kind]


def _default(needed: bool, default: Any) -> str:
    if needed:
        return "required"
    if default is None:
        return "null"
    return "" if default == "" else f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _meaning(doc: Doc, kind: Any = str) -> str:
    bounds = []
    if doc.minimum is not None and doc.maximum is not None:
        bounds.append(f"{doc.minimum} to {doc.maximum}")
    if doc.longest is not None:
        bounds.append(f"at most {doc.longest} {'items' if get_origin(kind) is list else 'characters'}")
    text = f"{doc.meaning} {'; '.join(bounds).capitalize()}." if bounds else doc.meaning
    return text.strip().replace("|", "\\|")


_PAGE = """\
# API

The HTTP API shows budgets, rules and replicas, and changes limits, while the service runs. It is at
`{prefix}` on the debug port (`DEBUG_HOST`, `DEBUG_PORT`). `GET {prefix}/openapi.json` returns this reference
as OpenAPI 3.1, to generate clients from.

In the examples, `$API` is the address, such as `http://127.0.0.1:6070{prefix}`, and `$ADMIN_TOKEN` the token.

```sh
curl "$API/status"
curl "$API/rules?domain=token-budgets"

# who is near the limit, and one bucket
curl "$API/budgets?domain=token-budgets&min_used=0.8"
curl "$API/bucket" -H 'Content-Type: application/json' \\
  -d '{{"domain": "token-budgets", "descriptor": "team=dba"}}'

# why was this refused?
curl "$API/explain" -H 'Content-Type: application/json' \\
  -d '{{"domain": "token-budgets", "descriptor": "team=dba"}}'
curl "$API/refusals?limit=20"
curl "$API/replicas"
```

## Tokens

| caller | rights |
|---|---|
| on loopback, without a token | read |
| with `READ_TOKEN` (or `READ_TOKEN_FILE`) | read |
| with `ADMIN_TOKEN` (or `ADMIN_TOKEN_FILE`) | read, and change limits |

Send a token as `Authorization: Bearer …`. A wrong token gets 401, even on loopback. If `ADMIN_TOKEN` is not
set, the API makes no changes. Token files are read again within a second of a change, so a token can be
replaced without a restart. While a file is missing or unusable, no caller has its token, and the log says so.

"On loopback" means that the client's address and the name in `Host` are those of loopback, and that no header
shows that a proxy forwarded the request. `kubectl port-forward` connects from loopback. The port uses TLS if
`HTTP_TLS_CERT` is set; outside of loopback, set it ([security.md](security.md#the-api)).

## Changes

```sh
# a team needs more until its window ends
curl "$API/top-up" -H "Authorization: Bearer $ADMIN_TOKEN" \\
  -H 'Content-Type: application/json' -H 'Idempotency-Key: launch-1' \\
  -d '{{"domain": "token-budgets", "descriptor": "team=dba", "amount": 5000,
       "windows": 1, "reason": "launch", "author": "ana"}}'

# block a user
curl "$API/override" -H "Authorization: Bearer $ADMIN_TOKEN" \\
  -H 'Content-Type: application/json' -H 'Idempotency-Key: abuse-1' \\
  -d '{{"domain": "token-budgets", "descriptor": "user=eve", "amount": 0,
       "reason": "abuse", "author": "ana"}}'
curl "$API/unblock" -H "Authorization: Bearer $ADMIN_TOKEN" \\
  -H 'Content-Type: application/json' -H 'Idempotency-Key: abuse-2' \\
  -d '{{"domain": "token-budgets", "descriptor": "user=eve", "reason": "it was a test", "author": "ana"}}'

# set the counter of an hour to 0
curl "$API/reset" -H "Authorization: Bearer $ADMIN_TOKEN" \\
  -H 'Content-Type: application/json' -H 'Idempotency-Key: mistake-1' \\
  -d '{{"domain": "token-budgets", "descriptor": "team=dba", "window": "hour",
       "reason": "a runaway job", "author": "ana"}}'

curl "$API/amendments?domain=token-budgets"
curl "$API/audit?limit=10"
```

[amendments.md](amendments.md) describes the effect of each verb on each kind of rule. A change is in force on
every replica within a second.

- `Idempotency-Key` is a text that the caller chooses. A change that is repeated with the same key within a
  day has no further effect, and returns the result of the first call (`replayed`). After a timeout or a 503,
  repeat the call with the same key. The same key with another change is refused.
- `dry_run: true` returns a preview and changes nothing: `edits` shows what would be replaced. Its
  `confirmation` is valid for five minutes, on every replica, for the same request, as long as no other change
  comes first.
- A preview has the first twenty affected buckets, before and after (`budgets`), their number (`affected`),
  and the overrides that take precedence over the change (`exceptions`). A reset of a pattern affects at most
  a hundred buckets; use narrower patterns for more.
- `notes` says why a part of a change has no effect now: no rule has its domain, its keys or its window, or
  another amendment precedes it. It is made all the same, because the rules may follow.
- A bulk change (a pattern, or `*` for a whole domain) requires the confirmation of its preview. A change of
  one descriptor may carry a confirmation, and is then refused if another change came first.
- `author` is not verified: any caller with the token can give any name. The audit and the log have it, with
  `reason`.

```sh
# stop a whole domain: first the preview, then the same request with its confirmation
body='{{"domain": "token-budgets", "descriptor": "*", "amount": 0,
       "reason": "provider outage", "author": "ana"'
confirmation=$(curl "$API/override" -H "Authorization: Bearer $ADMIN_TOKEN" \\
  -H 'Content-Type: application/json' \\
  -d "$body, \\"dry_run\\": true}}" | sed 's/.*"confirmation":"\\([^"]*\\)".*/\\1/')
curl "$API/override" -H "Authorization: Bearer $ADMIN_TOKEN" \\
  -H 'Content-Type: application/json' -H 'Idempotency-Key: outage-1' \\
  -d "$body, \\"confirmation\\": \\"$confirmation\\"}}"
```

`/changes` sets up to a hundred limits in one change. Keep tens of thousands of limits in a
[table beside the rules](amendments.md#limits-as-data).

## Conventions

- In requests and answers, a descriptor is one text, such as `team=dba,model=gpt-4o`, in the notation of
  [targets](amendments.md#targets), which preserves every byte. `entries` has the same for display.
- Times are in RFC 3339 and UTC. Amounts are integers up to 2^53 - 1. An answer always has all its fields;
  those without a value are null. Unknown fields of a request are refused.
- Lists have pages: `next_cursor` of one page is `cursor` of the next, and null at the end.

## Limits

Each role may make 100 reads a second, with bursts of 300, and 20 changes a second, with bursts of 100.
Requests without the required right get 401 or 403, and 429 if there are more than 2 a second. A body has at
most 64 KiB, the request line with the headers at most 16 KiB.

Browsers can use the API only from the page on the same port: requests with an `Origin` or `Sec-Fetch-Site` of
another site are refused, there are no cookies, and a body must be `application/json`.

## Endpoints

All are below `{prefix}`.

| endpoint | token | takes | returns | what it does |
|---|---|---|---|---|
{index}

## Requests

A GET takes these fields as parameters, a POST takes them as a JSON object.

{requests}
## Answers

{answers}
## Problems

An error is `application/problem+json` (RFC 9457): `type`, `title`, `status`, `detail` (a sentence that says
what to do), and `errors`, each with the `field` that is wrong and a `detail`.

| status | type | meaning |
|---|---|---|
{problems}
"""
