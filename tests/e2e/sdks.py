"""SDKs of providers as applications use them, in Python and in JavaScript, each behind the same three
lines.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import anthropic
import openai
import pytest

JAVASCRIPT = Path(__file__).parents[1] / "javascript"

MESSAGES: list[Any] = [{"role": "user", "content": "Hello?"}]


class Outcome(NamedTuple):
    """The outcome of one request for an application: the statuses of all attempts, the pauses between them in
    seconds, and the text and code of the error, which are empty after an answer.
    """

    statuses: list[int]
    pauses: list[float]
    message: str = ""
    code: str = ""


Pause = Callable[[float], None]
"""Called instead of a pause that an SDK requests."""


class Sdk(Protocol):
    """One SDK with its defaults, pointed at the gateway."""

    def ask(self, namespace: str, pause: Pause) -> Outcome:
        """One request of an application in this namespace."""
        ...


class PythonSdk:
    """`call` asks for a completion with these headers, and has the statuses of its attempts written down in
    `statuses`.
    """

    def __init__(self, statuses: list[int], call: Callable[[dict[str, str]], object]) -> None:
        self._statuses = statuses
        self._call = call

    def ask(self, namespace: str, pause: Pause) -> Outcome:
        self._statuses.clear()
        pauses: list[float] = []

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            pause(seconds)

        error: Any = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "sleep", sleep)
            try:
                self._call({"x-client-ns": namespace})
            except (openai.APIStatusError, anthropic.APIStatusError) as caught:
                error = caught
        if error is None:
            return Outcome(list(self._statuses), pauses)
        code = error.code if isinstance(error, openai.APIStatusError) else error.error_code
        return Outcome(list(self._statuses), pauses, str(error), code or "")


@contextmanager
def openai_python(url: str) -> Iterator[Sdk]:
    statuses: list[int] = []
    with openai.OpenAI(
        api_key="none",
        base_url=f"{url}/v1",
        http_client=openai.DefaultHttpxClient(event_hooks={"response": [remember_in(statuses)]}),
    ) as client:
        yield PythonSdk(
            statuses,
            lambda headers: client.chat.completions.create(
                model="gpt-x", messages=MESSAGES, extra_headers=headers
            ),
        )


@contextmanager
def anthropic_python(url: str) -> Iterator[Sdk]:
    statuses: list[int] = []
    with anthropic.Anthropic(
        api_key="none",
        base_url=url,
        http_client=anthropic.DefaultHttpxClient(event_hooks={"response": [remember_in(statuses)]}),
    ) as client:
        yield PythonSdk(
            statuses,
            lambda headers: client.messages.create(
                model="claude-x", max_tokens=100, messages=MESSAGES, extra_headers=headers
            ),
        )


def remember_in(statuses: list[int]) -> Callable[[Any], None]:
    return lambda response: statuses.append(response.status_code)


class JavascriptSdk:
    """A process of Node that sends requests with one SDK (tests/javascript/ask.mjs)."""

    def __init__(self, name: str, url: str) -> None:
        self.process = subprocess.Popen(
            ("node", str(JAVASCRIPT / "ask.mjs"), name, url),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, namespace: str, pause: Pause) -> Outcome:
        pauses: list[float] = []
        said = self._say({"namespace": namespace})
        while "wait" in said:
            pauses.append(said["wait"])
            pause(said["wait"])
            said = self._say({})
        error = said["error"] or {"message": "", "code": ""}
        return Outcome(said["statuses"], pauses, error["message"], error["code"])

    def _say(self, line: dict[str, str]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        return said


def why_not_javascript() -> str:
    """Return why the JavaScript SDKs cannot be used; empty if they can."""
    if shutil.which("node") is None:
        return "needs Node"
    version = subprocess.run(("node", "--version"), capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").partition(".")[0]) < 18:
        return f"needs Node 18 or newer, and this is {version}"
    if not (JAVASCRIPT / "node_modules" / ".package-lock.json").exists():
        return "needs the packages of tests/javascript, which `make test` fetches where npm is"
    return ""


@contextmanager
def javascript(name: str, url: str) -> Iterator[Sdk]:
    """Run a JavaScript SDK. Skips the test without Node."""
    if why := why_not_javascript():
        pytest.skip(why)
    sdk = JavascriptSdk(name, url)
    try:
        yield sdk
    finally:
        sdk.process.kill()
        with sdk.process:
            pass
