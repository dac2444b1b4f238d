"""The commands for operators, with their options and help. A command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import sys

from ...core.errors import InvalidRequest
from ..arguments import number, seconds, text
from ..command import Command
from .arguments import EXIT_CODES, MOST, add_bucket, add_server, client_of, share
from .change_options import CHANGES

_LISTED = 50
_MOST_LISTED = 100_000


# budgets, show, explain


def _budgets_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "domain", metavar="DOMAIN", type=text, nargs="?", default="", help="only those of a domain"
    )
    add = parser.add_argument
    add("--key", type=text, default="", metavar="KEY", help="only those that have an entry with this key")
    add(
        "--prefix",
        type=text,
        default="",
        metavar="TEXT",
        help="only those with a value that begins with this",
    )
    add("--value", type=text, metavar="VALUE", help="only those with this value")
    add(
        "--min-used",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="only those of which at least this share is used: 80%% or 0.8",
    )
    add("--state", choices=("ok", "low", "over", "blocked"), help="only those in this state")
    add(
        "--sort",
        choices=("-used", "used", "name", "reset"),
        default="-used",
        help="-used: the most used first (default); reset: those that reset next first",
    )
    add(
        "--limit",
        type=number(1, _MOST_LISTED),
        default=_LISTED,
        metavar="N",
        help="the maximum number of lines (default: %(default)d)",
    )
    add_server(parser)


def _budgets(given: argparse.Namespace) -> int:
    from .read_commands import budgets

    query = {
        "domain": given.domain,
        "key": given.key,
        "prefix": given.prefix,
        "value": given.value,
        "min_used": given.min_used or None,
        "state": given.state,
        "sort": given.sort,
    }
    return budgets(client_of(given), query, given.limit, as_json=given.json)


def _show_options(parser: argparse.ArgumentParser) -> None:
    add_bucket(parser)
    add_server(parser)


def _show(given: argparse.Namespace) -> int:
    from .read_commands import show

    return show(client_of(given), given.domain, given.descriptor, as_json=given.json)


def _explain_options(parser: argparse.ArgumentParser) -> None:
    add_bucket(parser)
    parser.add_argument(
        "--hits",
        type=number(0, MOST),
        default=0,
        metavar="N",
        help="explain a request with N hits (default: 0, a check)",
    )
    add_server(parser)


def _explain(given: argparse.Namespace) -> int:
    from .read_commands import explain

    return explain(client_of(given), given.domain, given.descriptor, given.hits, as_json=given.json)


# usage


def _zone(given: str) -> str:
    from ...core.rules.zones import is_zone

    if not is_zone(given):
        raise argparse.ArgumentTypeError("give a name of the IANA time zones, such as Europe/Berlin")
    return given


def _usage_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("domain", metavar="DOMAIN", type=text, help="a domain of the rules, such as token-budgets")
    add(
        "--by",
        type=text,
        default="",
        metavar="KEYS",
        help="a sum for each value of these keys of descriptors: team, or team,model (default: one sum)",
    )
    add(
        "--keys",
        type=text,
        default="",
        metavar="KEYS",
        help="only buckets with exactly these keys, in this order: team, or team,user (default: all buckets)",
    )
    add("--from", dest="since", required=True, metavar="DATE", help="from this date on, such as 2026-11-01")
    add("--to", dest="until", required=True, metavar="DATE", help="before this date, such as 2026-12-01")
    add(
        "--per", choices=("hour", "day", "month"), default="day", help="a sum for each (default: %(default)s)"
    )
    add(
        "--time-zone",
        type=_zone,
        default="UTC",
        metavar="ZONE",
        help="the time zone of days and months (default: %(default)s)",
    )
    add("--format", choices=("table", "csv", "json", "focus"), help="how to print it (default: table)")
    add_server(parser)


def _usage(given: argparse.Namespace) -> int:
    from ...core.windows.dates import start_of
    from .ledgers import UsageQuery
    from .usage import usage

    since, until = start_of(given.since, given.time_zone), start_of(given.until, given.time_zone)
    if since >= until:
        raise InvalidRequest("--to must be later than --from")
    by, keys = [tuple([key for key in names.split(",") if key]) for names in (given.by, given.keys)]
    asked = UsageQuery(given.domain, by, since, until, given.per, given.time_zone, keys)
    return usage(client_of(given), asked, given.format or ("json" if given.json else "table"))


# audit, wait, top


def _audit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit",
        type=number(1, 10_000),
        default=_LISTED,
        metavar="N",
        help="the maximum number of lines (default: %(default)d)",
    )
    add_server(parser)


def _audit(given: argparse.Namespace) -> int:
    from .read_commands import audit

    return audit(client_of(given), given.limit, as_json=given.json)


def _digest(given: str) -> str:
    if not given or len(given) > 64 or set(given) - set("0123456789abcdef"):
        raise argparse.ArgumentTypeError("give a hash of rules or its beginning, as `wait` prints it")
    return given


def _wait_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--generation",
        type=number(1, 2**53),
        default=0,
        metavar="G",
        help="rules of this generation or a later one",
    )
    add(
        "--hash",
        type=_digest,
        metavar="HASH",
        help="rules with this hash, or this beginning of it",
    )
    add(
        "--amendments",
        type=number(1, 2**53),
        default=0,
        metavar="V",
        help="amendments of this version or a later one",
    )
    add(
        "--replicas",
        type=number(1, 10_000),
        default=1,
        metavar="N",
        help="the minimum number of replicas (default: %(default)d)",
    )
    add(
        "--within",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait (default: %(default)g)",
    )
    add_server(parser)


def _wait(given: argparse.Namespace) -> int:
    from .read_commands import wait

    if given.generation and given.hash:
        raise InvalidRequest("--generation and --hash: give one of them")
    return wait(
        client_of(given),
        generation=given.generation,
        digest=given.hash or "",
        amendments=given.amendments,
        replicas=given.replicas,
        timeout=given.within,
        as_json=given.json,
    )


def _top_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "domain", metavar="DOMAIN", type=text, nargs="?", default="", help="only those of a domain"
    )
    parser.add_argument(
        "--prefix",
        type=text,
        default="",
        metavar="TEXT",
        help="only those with a value that begins with this",
    )
    parser.add_argument(
        "--state", choices=("ok", "low", "over", "blocked"), default="", help="only those in this state"
    )
    parser.add_argument(
        "--sort", choices=("-used", "used", "name", "reset"), default="-used", help="as for budgets"
    )
    parser.add_argument(
        "--every",
        type=seconds,
        default=2.0,
        metavar="SECONDS",
        help="the time between two updates (default: %(default)g)",
    )
    add_server(parser)


def _top(given: argparse.Namespace) -> int:
    client = client_of(given)
    if given.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        from .read_commands import budgets

        query = {"domain": given.domain, "prefix": given.prefix, "state": given.state, "sort": given.sort}
        return budgets(client, query, _LISTED, as_json=given.json)
    from .top import Screen, watch

    return watch(client, Screen(given.domain, given.sort, given.state, given.prefix), given.every)


COMMANDS = (
    Command(
        "budgets",
        "list the budgets of a running service, the most used first",
        f"Each line shows the most used window of a budget. {EXIT_CODES}.",
        _budgets_options,
        _budgets,
    ),
    Command(
        "show",
        "print one budget of a running service with all its windows and amendments",
        f"{EXIT_CODES}, 3 if no rule limits it.",
        _show_options,
        _show,
    ),
    Command(
        "explain",
        "explain the answer that a descriptor would get now: its rule, similar rules, its amendments",
        f"Nothing is counted. {EXIT_CODES}, 3 if it would be refused.",
        _explain_options,
        _explain,
    ),
    Command(
        "usage",
        "sum up usage, from the ledgers of a running service",
        f"Only rules with a ledger count. {EXIT_CODES}.",
        _usage_options,
        _usage,
    ),
    *CHANGES,
    Command(
        "audit",
        "print the last changes of limits: when, who, what and why",
        f"{EXIT_CODES}.",
        _audit_options,
        _audit,
    ),
    Command(
        "wait",
        "wait until all replicas enforce some rules and amendments",
        "Without --generation, --hash or --amendments, it waits until all have the same rules and the latest "
        f"amendments. {EXIT_CODES}, 3 if it does not happen in time.",
        _wait_options,
        _wait,
    ),
    Command(
        "top",
        "show the budgets of a running service in the terminal, live",
        "Keys: q quits, s sorts, f filters by state, d by domain, / by value. Without a terminal it prints "
        f"them once. {EXIT_CODES}.",
        _top_options,
        _top,
    ),
)
