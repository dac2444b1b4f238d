"""The debug port: the rules in force and the counters, as text for people."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from ..core.answers.signals import TARGETS
from ..core.errors import Problem
from ..core.holds.rule import STRICTNESS, HoldRule
from ..core.ledger.rule import LedgerRule, Price
from ..core.matching.tree import Domain, RuleTree
from ..core.model import COUNTER_MAX, MAX_CHARGE, Limit, Rule, Unit, Window
from ..core.ordering import in_order
from ..core.text import printable, show
from ..core.windows.calendars import WEEKDAYS
from .messages import Handler, Request, Response, text
from .request_origin import known_host
from .routes import get, routes
from .static import BELOW, VARY, Page, wants_html
from .streamed_pages import StreamedPages

_UNLIMITED = Limit(0, Window(Unit.UNKNOWN))
"""The limit that upstream shows for an unlimited rule."""


class Counters(Protocol):
    """The counters (observe/metrics.py, observe/merging.py)."""

    def counters(self) -> Iterable[tuple[str, Mapping[str, str], float]]:
        """Return the name, the labels and the value of each."""
        ...


def debug_app(
    tree: Callable[[], RuleTree | None],
    problems: Callable[[], Sequence[Problem]],
    counters: Callable[[], Awaitable[Counters]],
    sources: Callable[[], Iterable[str]] = tuple,
    api: Handler | None = None,
) -> Handler:
    """Return the handler of `/`, `/rlconfig` and `/stats`. `problems` returns the errors of the last load.

    `counters` returns those of all workers. `sources` returns lines on the sources of rules other than
    files. `api` answers everything below /api/. With it, `/` is a page for browsers, and a list for other
    clients.
    """
    pages = StreamedPages()
    page = Page()

    async def index(request: Request) -> Response:
        if api is not None and wants_html(request):
            return await page.document(request)
        lines = "/rlconfig: the rules in force, and what was wrong with the last load\n/stats: the counters\n"
        if api is not None:
            lines += (
                "/api/v1/openapi.json: the description of the API\n/: in a browser, a page with the budgets\n"
            )
        return text(lines)._replace(headers=VARY)

    async def rlconfig(request: Request) -> Response:
        return pages.lines(_config_lines(tree(), problems(), sources()))

    async def stats(request: Request) -> Response:
        return pages.lines(in_order(_stat_lines(await counters()), str))

    pages_of_text = {
        "/": get(index),
        "/rlconfig": known_host(get(rlconfig)),
        "/stats": known_host(get(stats)),
    }
    return routes(pages_of_text, {"/api/": api, BELOW: get(page.file)} if api is not None else {})


def _config_lines(
    tree: RuleTree | None, problems: Sequence[Problem], sources: Iterable[str]
) -> Iterator[str]:
    yield from (f"# {line}" for line in sources)
    in_force = "no configuration has been loaded yet"
    if tree is not None:
        in_force = "the rules below, from the load before, are in force"
    if problems:
        yield f"# last load failed; {in_force}:"
        for problem in problems:
            yield f"#   {printable(str(problem))}"
    elif tree is None:
        yield f"# {in_force}"
    for domain in tree.domains.values() if tree else ():
        policies = _policies(domain)
        if policies:
            yield printable(f"# domain {domain.name}: {policies}")
        for rule in domain.rules:
            for limit in rule.limits or (_UNLIMITED,):
                yield _rule_line(rule, limit)


def _policies(domain: Domain) -> str:
    """Return what the domain has beside its rules; empty if that is nothing."""
    policies = []
    if domain.deny_unmatched or domain.required_keys:
        keys = ", ".join(map(show, domain.required_keys)) or "none"
        policies.append(f"unmatched: {'deny' if domain.deny_unmatched else 'allow'}, required_keys: {keys}")
    if domain.limits is not None:
        policies.append(f"limits as data: {len(domain.limits)}")
    return ", ".join(policies)


def _rule_line(rule: Rule, limit: Limit) -> str:
    """Return upstream's line, followed by the keys that upstream does not show, if they are set."""
    amount = "tokens_per_unit" if rule.budget else "requests_per_unit"
    line = (
        f"{rule.path}: unit={limit.window.unit.name} {amount}={limit.amount}, "
        f"shadow_mode: {_lower(rule.shadow)}, quota_mode: {_lower(rule.quota)}"
    )
    calendar = limit.window.calendar
    more = {
        "unit_multiplier": limit.window.multiplier if limit.window.multiplier != 1 else "",
        "time_zone": calendar.zone if calendar else "",
        "starts_on": _starts_on(limit.window),
        "unlimited": "true" if rule.unlimited else "",
        "name": limit.name or rule.name,
        "replaces": " ".join(sorted(rule.replaces)),
        "detailed_metric": "true" if rule.detailed_metric else "",
        "count_refused": "" if rule.count_refused else "false",
        "max_charge": "" if rule.max_charge in (MAX_CHARGE, COUNTER_MAX) else str(rule.max_charge),
        "over_max_charge": "refuse" if rule.refuse_larger else "",
        "hold": _hold(rule.hold),
        "ledger": _ledger(rule.ledger),
        "price": _price(rule.price),
        "signal": " ".join(word for word, bit in TARGETS.items() if rule.signal & bit),
        "notify": "" if rule.notify is None else " ".join(rule.notify) or "off",
        "low_at": f"{rule.low_at:g}" if rule.low_at else "",
        "warn_at": " ".join(f"{share:g}" for share in rule.warn_at),
        "track": "true" if rule.track else "",
        "limit_headers": "on_refusal" if rule.limit_on_refusal_only else "",
        "error_format": rule.error_format,
        "error_details": rule.error_details,
        "source": rule.source,
    }
    return printable(line + "".join(f", {name}: {value}" for name, value in more.items() if value))


def _ledger(ledger: LedgerRule | None) -> str:
    """Return the ledger of a rule: `hour 400d`; empty for none."""
    return f"{ledger.by} {ledger.keep // 86_400}d" if ledger is not None else ""


def _price(price: Price | None) -> str:
    """Return the price of a rule: `2.50 USD`; empty for none."""
    return f"{price.per_million} {price.currency}" if price is not None else ""


def _hold(hold: HoldRule | None) -> str:
    """Return the holds of a rule: `auto p90 60s 50%`; empty for none."""
    if hold is None:
        return ""
    names = {deviations: name for name, deviations in STRICTNESS.items()}
    size = str(hold.fixed) if hold.fixed else f"auto {names[hold.deviations]}"
    return f"{size} {hold.life}s {hold.most:.0%}"


def _starts_on(window: Window) -> str:
    """Return where calendar windows begin; empty for a Monday, the first of a month and January 1."""
    calendar = window.calendar
    if calendar is None:
        return ""
    if window.unit is Unit.WEEK and calendar.weekday:
        return WEEKDAYS[calendar.weekday]
    if window.unit is Unit.MONTH and calendar.day != 1:
        return str(calendar.day)
    if window.unit is Unit.YEAR and (calendar.month, calendar.day) != (1, 1):
        return f"{calendar.month:02}-{calendar.day:02}"
    return ""


def _lower(flag: bool) -> str:
    return "true" if flag else "false"


def _stat_lines(counters: Counters) -> Iterator[str]:
    for name, labels, value in counters.counters():
        shown = ",".join(f'{label}="{printable(value)}"' for label, value in labels.items())
        yield f"{name}{{{shown}}}: {value:.15g}" if shown else f"{name}: {value:.15g}"
