"""Simulates forecasts: how early they are right, which events are false, and which are missing.

    python -m bench.forecasts [--calls=20000] [--write]

Windows of an hour, a day, a week and a month are used by random calls of random sizes (testing/spending.py),
after four weeks of a ledger. The meter, the profile and the rule for events are those that serve, beside
estimators that were rejected. Seeds are fixed, so a run prints the same numbers each time; it takes some
minutes. `--write` puts them into docs/forecasts.md and draws docs/images/forecasts.svg.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import NamedTuple

from ratelimit_service.core.budgets.burning import Meter, runs_out
from ratelimit_service.core.budgets.forecasting import (
    IN_A_ROW,
    REACH_IN_HOURS,
    REACH_OTHERWISE,
    Forecast,
    has_profile,
)
from ratelimit_service.core.budgets.profile import Profile, learn
from testing.page_blocks import fill_page
from testing.spending import DAY, HOUR, MONTH, SCENES, WEEK, Scene, Traffic

from .plots import Line, lines

DOCS = Path(__file__).parents[1] / "docs"

LIMIT = 1_000_000
SEEDS = range(7)
CALLS = int(next((each[8:] for each in sys.argv if each.startswith("--calls=")), 20_000))
SPANS = {"hour": HOUR, "day": DAY, "week": WEEK, "month": MONTH}
PARTS = (0.05, 0.1, 0.2, 0.3, 0.5)
CAP = 1.0
"""Errors count as a whole window at most."""


class Moment(NamedTuple):
    """All that an estimator knows: the meter, its window, the reading, and the profile."""

    meter: Meter
    start: float
    end: float
    now: float
    used: int
    limit: int
    profile: Profile | None


Estimator = Callable[[Moment], float]
"""Returns when nothing is left, even if that is after the window."""


def _mean(at: Moment) -> float:
    return _by_rate(at, at.used / (at.now - at.start))


def _rate(at: Moment) -> float:
    return _by_rate(at, at.meter.burn(at.now, at.used) or 0.0)


def _as_before(at: Moment) -> float:
    return at.profile.moment(at.now, at.limit - at.used) if at.profile is not None else _rate(at)


def _ratio(at: Moment) -> float:
    if at.profile is None:
        return _rate(at)
    return _by_level(at, at.used / at.profile.use(at.start, at.now))


def _profile(at: Moment) -> float:
    if at.profile is None:
        return _rate(at)
    return _by_level(at, at.meter.level(at.now, at.used, at.profile).level)


def _by_rate(at: Moment, rate: float) -> float:
    return at.now + (at.limit - at.used) / rate if rate else inf


def _by_level(at: Moment, level: float) -> float:
    assert at.profile is not None
    return at.profile.moment(at.now, (at.limit - at.used) / level) if level > 0 else inf


ESTIMATORS: dict[str, Estimator] = {
    "mean since the start": _mean,
    "current rate": _rate,
    "as the weeks before": _as_before,
    "ratio to the weeks before": _ratio,
    "profile": _profile,
}


def profile_of(scene: Scene, traffic: Traffic) -> Profile | None:
    """Return the profile at the start of the window."""
    if not scene.days or not has_profile(traffic.start, traffic.start + traffic.span):
        return None
    return learn(traffic.history(scene.days), traffic.start)


def looks(scene: Scene, traffic: Traffic, limit: int) -> Iterator[tuple[float, int, int]]:
    """Yield a moment, the use and the limit at each look."""
    taken = 0
    for now, total in traffic.play():
        passed = (now - traffic.start) / traffic.span
        if scene.reset and not taken and passed >= scene.reset:
            taken = total
        topped_up = bool(scene.top_up) and passed >= scene.top_up
        yield now, total - taken, limit * 3 // 2 if topped_up else limit


def errors(scene: Scene, span: float) -> dict[str, dict[float, list[float]]]:
    """Return the errors of each estimator after parts of windows that run out, as parts of the window."""
    found: dict[str, dict[float, list[float]]] = {name: {part: [] for part in PARTS} for name in ESTIMATORS}
    total = 1.25 * LIMIT * (1.5 if scene.top_up else 1.6 if scene.reset else 1.0)
    for seed in SEEDS:
        traffic = scene.traffic(span, seed, total, LIMIT, CALLS)
        start, end = traffic.start, traffic.start + span
        profile, meter = profile_of(scene, traffic), Meter(start, end)
        predicted: dict[float, dict[str, float]] = {}
        for now, used, limit in looks(scene, traffic, LIMIT):
            if used >= limit:
                for part, each in predicted.items():
                    for name, when in each.items():
                        found[name][part].append(min(CAP, abs(when - now) / span))
                break
            for part in PARTS:
                passed = (now - start) / span
                if passed >= part > max(scene.top_up, scene.reset) and part not in predicted:
                    at = Moment(meter, start, end, now, used, limit, profile)
                    predicted[part] = {name: estimate(at) for name, estimate in ESTIMATORS.items()}
            meter.note(now, used)
    return found


@dataclass
class Events:
    """What events told about windows: of those that lasted, and of those that ran out."""

    lasted: int = 0
    false: int = 0
    ran_out: int = 0
    missed: int = 0
    ahead: list[float] = field(default_factory=list)
    """How long before, as parts of the window."""

    def add(self, other: Events) -> None:
        """Add those of other windows."""
        self.lasted += other.lasted
        self.false += other.false
        self.ran_out += other.ran_out
        self.missed += other.missed
        self.ahead += other.ahead

    def __str__(self) -> str:
        lead = f"{sum(self.ahead) / len(self.ahead):.0%}" if self.ahead else "-"
        return f"{self.false} of {self.lasted}; {self.missed} of {self.ran_out}; {lead}"


class LongerReach:
    """A rule for events: as the one that serves without a profile, with the reach of short windows in all of
    them.
    """

    def __init__(self, start: float, end: float) -> None:
        self._start, self._end = start, end
        self._meter = Meter(start, end)
        self._in_a_row = 0

    def note(self, now: float, used: int, limit: int) -> bool:
        """Return whether there is an event."""
        if not self._meter.note(now, used):
            return False
        at = runs_out(now, used, limit, self._end, self._meter.burn(now, used))
        ahead = used * (self._end - self._start) >= limit * (now - self._start)
        reach = self._meter.looks_back(now) * (REACH_IN_HOURS if ahead else REACH_OTHERWISE)
        self._in_a_row = self._in_a_row + 1 if at and at - now <= reach else 0
        return self._in_a_row >= IN_A_ROW


RULES = ("longer reach", "current rate", "profile, 0 errors", "profile, 1", "profile, 2", "profile, 3")
USES = (0.6, 0.8, 0.9, 0.95, 1.1, 1.25, 1.5, 2.5)
"""What a window uses of its limit."""


def events(scene: Scene, span: float) -> dict[str, Events]:
    """Return the events by each rule, in windows that use from half to more than twice of their limit."""
    found = {name: Events() for name in RULES}
    for use in USES:
        total = use * LIMIT * (1.5 if scene.top_up else 1.4 if scene.reset else 1.0)
        for seed in SEEDS:
            traffic = scene.traffic(span, seed, total, LIMIT, CALLS)
            start, end = traffic.start, traffic.start + span
            profile = profile_of(scene, traffic)
            rules: dict[str, Callable[[float, int, int], object]] = {
                "longer reach": LongerReach(start, end).note,
                "current rate": Forecast(start, end).note,
            }
            for number, name in enumerate(RULES[2:]):
                rules[name] = Forecast(start, end, partial(_given, profile), errors=number).note
            told: dict[str, float] = {}
            ended = 0.0
            for now, used, limit in looks(scene, traffic, LIMIT):
                if used >= limit:
                    ended = now
                    break
                for name, note in rules.items():
                    if note(now, used, limit):
                        told.setdefault(name, now)
            for name, each in found.items():
                at = told.get(name)
                if not ended:
                    each.lasted += 1
                    each.false += at is not None
                else:
                    each.ran_out += 1
                    each.missed += at is None
                    each.ahead += [(ended - at) / span] if at is not None else []
    return found


def _given(profile: Profile | None) -> Profile | None:
    return profile


def _cases() -> Iterator[tuple[Scene, str, float]]:
    for scene in SCENES:
        for name, span in SPANS.items():
            if span in scene.spans:
                yield scene, name, span


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def tables() -> Iterator[str]:
    """Yield the lines of the tables in Markdown, and draw the plot."""
    found = {(scene.name, name): errors(scene, span) for scene, name, span in _cases()}
    yield f"| error after 20 % of the window | | {' | '.join(ESTIMATORS)} |"
    yield f"|---|---|{'---|' * len(ESTIMATORS)}"
    for (scene_name, window), each in found.items():
        values = [by_part[0.2] for by_part in each.values()]
        if all(values):
            cells = [f"{_average(some):.0%}, {max(some):.0%}" for some in values]
            yield f"| {scene_name} | {window} | {' | '.join(cells)} |"
    yield ""
    yield f"| mean error after | {' | '.join(ESTIMATORS)} |"
    yield f"|---|{'---|' * len(ESTIMATORS)}"
    drawn: dict[str, list[tuple[float, float]]] = {name: [] for name in ESTIMATORS}
    for part in PARTS:
        cells = []
        for name in ESTIMATORS:
            mean = _average([_average(each[name][part]) for each in found.values() if each[name][part]])
            drawn[name].append((100 * part, 100 * mean))
            cells.append(f"{mean:.1%}")
        yield f"| {part:.0%} | {' | '.join(cells)} |"
    if "--write" in sys.argv:
        drawing = lines(
            "Error of the time of exhaustion, mean of all scenes",
            "per cent of the window that have passed",
            "error in per cent of the window",
            [Line(name, points) for name, points in drawn.items()],
        )
        (DOCS / "images" / "forecasts.svg").write_text(drawing)
    yield ""
    yield f"| false; missed; ahead | | {' | '.join(RULES)} |"
    yield f"|---|---|{'---|' * len(RULES)}"
    sums = {name: Events() for name in RULES}
    for scene, window, span in _cases():
        by_rule = events(scene, span)
        yield f"| {scene.name} | {window} | {' | '.join(str(each) for each in by_rule.values())} |"
        if not (scene.top_up or scene.reset):  # an event before these was right when it was made
            for name, some in by_rule.items():
                sums[name].add(some)
    yield f"| all but the last two | | {' | '.join(str(each) for each in sums.values())} |"


def main() -> None:
    """Print the tables; with --write, also put them and the plot into the docs."""
    text = ""
    for line in tables():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        text += f"{line}\n"
    if "--write" in sys.argv:
        fill_page(DOCS / "forecasts.md", {"forecasts": text})


if __name__ == "__main__":
    main()
