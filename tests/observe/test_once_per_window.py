"""Events that are reported once in a window, such as refusals."""

from __future__ import annotations

from ratelimit_service.observe.once_per_window import OncePerWindow


def test_a_refused_bucket_is_logged_once_in_its_window() -> None:
    """It is logged again when the next window refuses it too."""
    log = OncePerWindow()
    noted = [
        log.note("team=dba", end, "", now)
        for end, now in [(60, 10), (60, 11), (60, 59), (120, 60), (120, 61)]
    ]
    assert [True, False, False, True, False] == noted


def test_another_bucket_and_another_limit_of_the_same_bucket_are_logged_too() -> None:
    """The hour and the day of a bucket may end at the same moment."""
    log = OncePerWindow()
    noted = [
        log.note(bucket, 60, name, 0)
        for bucket, name in [("a", ""), ("b", ""), ("a", "daily"), ("a", "daily")]
    ]
    assert [True, True, True, False] == noted


def test_a_window_that_is_over_is_not_logged() -> None:
    """It would be dropped at once, and logged again each time."""
    log = OncePerWindow()
    assert [False, False] == [log.note("a", 60, "", 60), log.note("a", 60, "", 61)]


def test_at_the_bound_new_buckets_are_counted_and_known_ones_stay_known() -> None:
    """Made-up buckets can grow neither the log nor the memory without a bound."""
    log = OncePerWindow(most=2)
    noted = [log.note(bucket, 60, "", 0) for bucket in ("a", "b", "c", "c", "a")]
    assert ([True, True, False, False, False], 2) == (noted, log.overflowed)


def test_a_window_that_ends_makes_room() -> None:
    """It need not be the first one."""
    log = OncePerWindow(most=2)
    noted = [
        log.note(*call) for call in [("day", 86400, "", 0), ("minute", 60, "", 0), ("late", 120, "", 60)]
    ]
    assert ([True, True, True], 0) == (noted, log.overflowed)


def test_a_clock_that_goes_back_logs_nothing_twice() -> None:
    """This holds as long as the window is remembered."""
    log = OncePerWindow()
    assert [True, False] == [log.note("a", 120, "", 61), log.note("a", 120, "", 59)]


def test_windows_that_end_together_are_forgotten_a_few_at_a_time() -> None:
    """Those of a hundred thousand buckets end at the full hour, and the next call must not wait for all of
    them.
    """
    log = OncePerWindow(most=1_000)
    for number in range(1_000):
        assert log.note(f"old {number}", 60, "", 0)
    held = []
    for number in range(10):
        assert log.note(f"new {number}", 120, "", 60)
        held.append(len(log._known))
    assert [901 - 99 * number for number in range(10)] == held
    assert not log.note("new 0", 120, "", 60)


def test_a_clock_that_was_ahead_and_is_put_right_leaves_room() -> None:
    """Otherwise windows in the future would fill the memory until they end, perhaps in a year."""
    log = OncePerWindow(most=2)
    year = 365 * 86_400
    noted = [log.note(bucket, year + 60, "", year) for bucket in ("a", "b")]
    noted += [log.note(bucket, 120, "", now) for bucket, now in (("a", 60), ("c", 61), ("a", 62))]
    assert ([True, True, True, True, False], 0) == (noted, log.overflowed)


def test_a_clock_that_was_behind_and_is_put_right_goes_on() -> None:
    """The previous windows have ended."""
    log = OncePerWindow(most=2)
    year = 365 * 86_400
    noted = [log.note("a", end, "", now) for end, now in [(60, 0), (year + 60, year), (year + 60, year + 1)]]
    assert [True, True, False] == noted
