"""How each error of Redis affects the call that it answers."""

from __future__ import annotations

import pytest
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse
from redis.exceptions import TimeoutError as RedisTimeoutError

from ratelimit_service.core.errors import StoreError
from ratelimit_service.stores.batch import CallFailed, Fate
from ratelimit_service.stores.redis.errors import NotSent, failure, fate_of

REPLIES = {
    # Before the script begins, or by its first command: nothing was applied.
    "NOPERM User app has no permissions to access the 'x' key": Fate.FORBIDDEN,
    "NOPERM this user has no permissions to run the 'evalsha' command": Fate.FORBIDDEN,
    "OOM command not allowed when used memory > 'maxmemory'.": Fate.REFUSED,
    "READONLY You can't write against a read only replica. script: 1, on @user_script:2.": Fate.REFUSED,
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist": Fate.REFUSED,
    "NOREPLICAS Not enough good replicas to write.": Fate.REFUSED,
    "MASTERDOWN Link with MASTER is down": Fate.REFUSED,
    "LOADING Redis is loading the dataset in memory": Fate.REFUSED,
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": Fate.REFUSED,
    "NOAUTH Authentication required.": Fate.REFUSED,
    "WRONGPASS invalid username-password pair or user is disabled.": Fate.REFUSED,
    "NOSCRIPT No matching script. Please use EVAL.": Fate.REFUSED,
    "CROSSSLOT Keys in request don't hash to the same slot": Fate.REFUSED,
    "CLUSTERDOWN Hash slot not served": Fate.REFUSED,
    "TRYAGAIN Multiple keys request during rehashing of slot": Fate.REFUSED,
    "MOVED 3999 127.0.0.1:6381": Fate.REFUSED,
    "ASK 3999 127.0.0.1:6381": Fate.REFUSED,
    "ERR unknown command 'EVALSHA', with args beginning with: ": Fate.REFUSED,
    "ERR Unknown Redis command called from script script: 6a07, on @user_script:39.": Fate.REFUSED,
    "no upstream host": Fate.REFUSED,
    # The register: every counter of another type fails its own hit.
    "WRONGTYPE Operation against a key holding the wrong kind of value": Fate.BAD_LANE,
    # Something may have been applied.
    "upstream failure": Fate.UNCLEAR,
    "ERR Error running script: @user_script:120: attempt to compare nil with number": Fate.UNCLEAR,
    "ERR something that nobody has seen yet": Fate.UNCLEAR,
}


@pytest.mark.parametrize("text", REPLIES)
def test_an_error_reply_shows_whether_its_call_was_applied(text: str) -> None:
    """The errors are those of the driver. An unknown one counts as possibly applied."""
    error: Exception = DefaultParser.parse_error(text)  # type: ignore[no-untyped-call]
    assert REPLIES[text] == fate_of(error)


@pytest.mark.parametrize(
    ("error", "fate"),
    [
        (RedisConnectionError("Connection closed by server."), Fate.LOST),
        (RedisTimeoutError("no answer within 500 ms"), Fate.LOST),
        (ConnectionResetError("gone"), Fate.LOST),
        (NotSent(ConnectionRefusedError("refused")), Fate.REFUSED),
        (InvalidResponse("the script replied 7"), Fate.UNCLEAR),
    ],
)
def test_a_lost_reply_leaves_the_outcome_unknown(error: Exception, fate: Fate) -> None:
    """Without a connection, nothing was sent."""
    failed = failure(error, partly=True)
    assert isinstance(failed, CallFailed)
    assert (fate, True) == (failed.fate, failed.partly)


def test_the_message_of_an_error_has_its_kind() -> None:
    """The message has the kind of the error, or the cause if nothing was sent."""
    errors = [
        NotSent(RedisTimeoutError("no connection within 20 ms")),
        NotSent(OSError()),
        StoreError("as it is"),
    ]
    expected = ["Redis: TimeoutError: no connection within 20 ms", "Redis: OSError", "as it is"]
    assert expected == [str(failure(error)) for error in errors]
