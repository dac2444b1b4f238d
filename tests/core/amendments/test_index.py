"""Finding the amendments of a bucket, and the cost of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.amendments.index import UNAMENDED, Amendments, Targets
from ratelimit_service.core.amendments.model import Amendment, override, top_up
from ratelimit_service.core.amendments.target import Target, TargetEntry, exactly, parse
from ratelimit_service.core.model import Entry
from tests.limiter import entries_of


def to(text: str, amount: int, window: str = "") -> Amendment:
    return override(parse("d", text), amount, window=window)


def amounts(amendments: Amendments, entries: str) -> list[int]:
    """Return the amounts of the overrides of a bucket by precedence."""
    return [one.amount for one in amendments.find("d", entries_of(entries)).overrides]


def test_overrides_are_found_with_the_most_specific_first() -> None:
    """A descriptor precedes patterns, more specific patterns precede others, and the domain is last. For one
    target, an override of one window precedes the one of all.
    """
    amendments = Amendments()
    for amendment in (
        to("*", 1),
        to("user=*", 2),
        to("user=premium_*", 3),
        to("user=premium_7", 4),
        to("user=premium_7", 5, window="hour"),
        to("user=premium_8", 6),
        to("user=*,model=*", 7),
    ):
        amendments.put(amendment)
    assert [5, 4, 3, 2, 1] == amounts(amendments, "user=premium_7")
    assert [3, 2, 1] == amounts(amendments, "user=premium_9")
    assert [2, 1] == amounts(amendments, "user=eve")
    assert [7, 1] == amounts(amendments, "user=eve model=a")
    assert [1] == amounts(amendments, "team=dba")
    assert UNAMENDED == amendments.find("other", entries_of("user=premium_7"))


def test_a_later_override_of_the_same_target_takes_the_place_of_the_first() -> None:
    """Both have the same id, so no two overrides contradict each other."""
    amendments = Amendments()
    amendments.put(to("team=dba", 1))
    amendments.put(to("team=dba", 2))
    assert [2] == amounts(amendments, "team=dba")
    assert 1 == len(amendments)


def test_top_ups_are_apart_and_all_of_them_are_found() -> None:
    """They add up."""
    amendments = Amendments()
    for key, text in (("a", "team=dba"), ("b", "team=dba"), ("c", "team=*")):
        amendments.put(top_up(parse("d", text), 5, key))
    stack = amendments.find("d", entries_of("team=dba"))
    assert (0, 3) == (len(stack.overrides), len(stack.top_ups))


def test_a_removed_amendment_is_not_found() -> None:
    """Removing it again has no effect."""
    amendments = Amendments()
    for amendment in (to("*", 1), to("team=dba", 2), to("team=d*", 3)):
        amendments.put(amendment)
    for amendment in list(amendments):
        amendments.remove(amendment.id)
        amendments.remove(amendment.id)
    assert UNAMENDED == amendments.find("d", entries_of("team=dba"))
    assert 0 == len(amendments)


def test_a_change_in_one_domain_leaves_the_version_of_another() -> None:
    """Only cached plans of its own domain are checked again, also when its last amendment is removed."""
    amendments = Amendments()
    amendments.put(to("team=dba", 1))
    before = amendments.version_of("d")
    amendments.put(override(parse("other", "*"), 1))
    assert before == amendments.version_of("d")
    amendments.remove(to("team=dba", 1).id)
    assert amendments.version == amendments.version_of("d") > before


def test_data_rank_below_every_override() -> None:
    """A kill switch for a domain also stops users whose limit is in a file."""
    amendments = Amendments()
    data = Targets()
    data.put(to("user=a", 70))
    data.put(to("user=*", 10))
    bucket = entries_of("user=a")
    assert [70, 10] == [one.amount for one in amendments.find("d", bucket, data).overrides]
    amendments.put(to("*", 0))
    assert [0, 70, 10] == [one.amount for one in amendments.find("d", bucket, data).overrides]
    assert UNAMENDED == Amendments().find("d", entries_of("team=a"), data)


def test_a_find_among_ten_thousand_takes_a_few_steps() -> None:
    """Descriptors and patterns of the same form share a dictionary."""
    amendments = Amendments()
    for number in range(5_000):
        amendments.put(to(f"user=u{number:05}", number))
        amendments.put(to(f"user=team{number:05}_*", number))
    assert 3 == amendments.steps(parse("d", "user=team99999_*"))
    assert [7] == amounts(amendments, "user=team00007_x")
    for number in range(50):
        amendments.put(to(f"user=*x{number}*", number))
    assert 53 < amendments.steps(parse("d", "user=*y*"))  # all with the same key have to be compared


values = st.text("ab*", max_size=4).map(str.encode)
entries = st.lists(st.builds(Entry, st.sampled_from([b"k", b"l"]), values), min_size=1, max_size=2).map(tuple)
target_entries = st.builds(
    TargetEntry,
    st.sampled_from([b"k", b"l"]),
    st.lists(values, min_size=1, max_size=3).map(lambda p: (p[0], *filter(None, p[1:-1]), *p[1:][-1:])),
)
targets = st.one_of(
    st.builds(Target, st.just("d"), st.lists(target_entries, max_size=2).map(tuple)),
    entries.map(lambda entries: exactly("d", entries)),
)


@given(st.lists(targets, max_size=12), st.lists(st.integers(0, 11), max_size=4), entries)
def test_the_index_finds_the_same_as_a_linear_search(
    chosen: list[Target], removed: list[int], bucket: tuple[Entry, ...]
) -> None:
    """In the order of precedence."""
    amendments = Amendments()
    there = {}
    for number, target in enumerate(chosen):
        amendment = override(target, number)
        there[amendment.id] = amendment
        amendments.put(amendment)
    for number in removed:
        if number < len(chosen):
            name = override(chosen[number], 0).id
            there.pop(name, None)
            amendments.remove(name)
    expected = [one for one in there.values() if one.target.matches(bucket)]
    expected.sort(key=lambda one: (not one.target.exact, one.target.specificity))
    assert expected == list(amendments.find("d", bucket).overrides)
