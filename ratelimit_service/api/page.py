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
    title = f"### Request of {endpoint.path[1:]}\n\n`{endpoint.method} {PREFIX}{endpoint.path}`. {endpoint.meaning}\n"
    text = "\n".join([title, _HEAD, *rows, ""])
    for item in [each for field in fields_of(endpoint.takes) for each in get_args(field.type)]:
        if hasattr(item, "_fields"):
            text += "\n".join([f"\n### {item.__name__}\n\n{summary_of(item)}\n", _HEAD, *_fields(item), ""])
    return text


_HEAD = "| field | type | default | meaning |\n|---|---|---|---|"


def _fields(cls: type) -> list[str]:
    return [
        f"| `{field.name}` | {_type(field.type)} | {_default(field.needed, field.default)} | {_meaning(field.doc, field.type)} |"
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
        return "needed"
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

`{prefix}` on the debug port (`DEBUG_HOST`, `DEBUG_PORT`): what is in force, what is used, and changes of limits while the service
runs. `GET {prefix}/openapi.json` has this reference as OpenAPI 3.1, for clients that are generated.

In the examples, `$API` is the address, such as `http://127.0.0.1:6070{prefix}`, and `$ADMIN_TOKEN` the token.

```sh
curl "$API/status"
curl "$API/rules?domain=token-budgets"

# who is near the limit, and one bucket
curl "$API/budgets?domain=token-budgets&min_used=0.8"
curl "$API/bucket" -H 'Content-Type: application/json' -d '{{"domain": "token-budgets", "descriptor": "team=dba"}}'

# why was this refused?
curl "$API/explain" -H 'Content-Type: application/json' -d '{{"domain": "token-budgets", "descriptor": "team=dba"}}'
curl "$API/refusals?limit=20"
curl "$API/replicas"
```

## Tokens

| caller | may |
|---|---|
| on loopback, without a token | read |
| with `READ_TOKEN` (or `READ_TOKEN_FILE`) | read |
| with `ADMIN_TOKEN` (or `ADMIN_TOKEN_FILE`) | read, and change limits |

A token is sent as `Authorization: Bearer …`. A wrong one is refused with 401, on loopback too. Without `ADMIN_TOKEN` the API changes
nothing. The files are read again within a second of a change, so that a token is replaced without a restart; one that is gone or
unusable lets no caller in, and the log says so.

"On loopback" means that the client's address and the name in `Host` are those of loopback, and that no header says that a proxy
forwarded the request. `kubectl port-forward` comes from loopback. The port uses TLS where `HTTP_TLS_CERT` is set; outside of
loopback it should ([security.md](security.md#the-api)).

## Changes

```sh
# a team needs more until its window ends
curl "$API/top-up" -H "Authorization: Bearer $ADMIN_TOKEN" -H 'Content-Type: application/json' -H 'Idempotency-Key: launch-1' \\
  -d '{{"domain": "token-budgets", "descriptor": "team=dba", "amount": 5000, "windows": 1, "reason": "launch", "author": "ana"}}'

# block a user
curl "$API/override" -H "Authorization: Bearer $ADMIN_TOKEN" -H 'Content-Type: application/json' -H 'Idempotency-Key: abuse-1' \\
  -d '{{"domain": "token-budgets", "descriptor": "user=eve", "amount": 0, "reason": "abuse", "author": "ana"}}'
curl "$API/unblock" -H "Authorization: Bearer $ADMIN_TOKEN" -H 'Content-Type: application/json' -H 'Idempotency-Key: abuse-2' \\
  -d '{{"domain": "token-budgets", "descriptor": "user=eve", "reason": "it was a test", "author": "ana"}}'

# begin anew
curl "$API/reset" -H "Authorization: Bearer $ADMIN_TOKEN" -H 'Content-Type: application/json' -H 'Idempotency-Key: mistake-1' \\
  -d '{{"domain": "token-budgets", "descriptor": "team=dba", "window": "hour", "reason": "a runaway job", "author": "ana"}}'

curl "$API/amendments?domain=token-budgets"
curl "$API/audit?limit=10"
```

What each verb does to each kind of rule is in [amendments.md](amendments.md); a change is in force on every replica within a second.

- `Idempotency-Key` is a text of the caller's choice. A change that is sent again with its key, for a day, does nothing a second time and
  returns what it did (`replayed`). After a timeout or a 503, send it again with the same key. A key with another change is refused.
- `dry_run: true` previews: `edits` has what would be replaced, and nothing is changed. Its `confirmation` is valid for five minutes, on
  every replica, for the same request, and as long as what it would replace stays as it is.
- A preview shows the first twenty buckets that the change is for, before and after (`budgets`), how many there are (`affected`), and the
  overrides that it does not reach (`exceptions`). A reset of a pattern is for at most a hundred buckets; narrow it for more.
- A change of many (a pattern, or `*` for a whole domain) is refused without the confirmation of its preview. With one, a change of one
  descriptor is refused as well if another change came first.
- `author` is what the caller says; whoever has the token can say any name. It is in the audit and in the log, with `reason`.

```sh
# stop a whole domain: first the preview, then the same request with its confirmation
body='{{"domain": "token-budgets", "descriptor": "*", "amount": 0, "reason": "provider outage", "author": "ana"'
confirmation=$(curl "$API/override" -H "Authorization: Bearer $ADMIN_TOKEN" -H 'Content-Type: application/json' \\
  -d "$body, \\"dry_run\\": true}}" | sed 's/.*"confirmation":"\\([^"]*\\)".*/\\1/')
curl "$API/override" -H "Authorization: Bearer $ADMIN_TOKEN" -H 'Content-Type: application/json' -H 'Idempotency-Key: outage-1' \\
  -d "$body, \\"confirmation\\": \\"$confirmation\\"}}"
```

Many limits are set by `/changes`, a hundred in one change; tens of thousands are better kept in a
[table beside the rules](amendments.md#limits-as-data).

## Conventions

- A descriptor is one text in requests and answers, `team=dba,model=gpt-4o`, as [amendments.md](amendments.md#targets) defines targets;
  every byte comes back as it was sent. `entries` is the same for display.
- Moments are in RFC 3339, in UTC. Amounts are integers up to 2^53 - 1. A field of an answer is always there, as null where it says
  nothing. A field that a request has no use for is refused.
- Lists come in pages: `next_cursor` of one is `cursor` of the next, and null at the end.

## Limits

Each role has its own rate: 100 reads a second, 300 at once, and 20 changes a second, 100 at once. Requests without the right that they
need are answered 401 or 403, and 429 where there are more than 2 a second. A body has 64 KiB at most, a request's line and headers
16 KiB.

A browser may use the API from its own page only: `Origin` and `Sec-Fetch-Site` of another site are refused, nothing relies on cookies,
and a body must be `application/json`.

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

An error is `application/problem+json` (RFC 9457): `type`, `title`, `status`, `detail` (a sentence that says what to do), and `errors`, each
with the `field` that is wrong and a `detail`.

| status | type | meaning |
|---|---|---|
{problems}
"""
