"""Commands to try while everything keeps running (KEEP=1)."""

from __future__ import annotations

import itertools
import json
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx

from .budgets import DBA, PAYMENTS, SEARCH, start_of
from .callers import Caller
from .parts import LARGE, SMALL, Parts

PEOPLE = {"ann": "dba", "sue": "support"}
"""People whose tokens are written to files, and their teams."""

EVERY = 1.5
"""Seconds between two prompts."""


def to_try(parts: Parts) -> str:
    """Write the tokens of PEOPLE into files, and return the commands."""
    for user, team in PEOPLE.items():
        (parts.directory / f"{user}.jwt").write_text(parts.company.token(user, team=team))
    certificate, key = parts.mesh.workload(PAYMENTS.name)
    environment = " ".join([f"{name}={shlex.quote(value)}" for name, value in parts.environment.items()])
    operator = " ".join([f"{name}={shlex.quote(value)}" for name, value in parts.operator.items()])
    tls = f"--cacert {parts.mesh.authority} --cert {certificate} --key {key}"
    redis = f"redis-cli -p {parts.redis.port}"
    service = parts.service
    commands = [
        ("A prompt of ann, who is in team dba", _prompt(parts, "ann", stream=False)),
        ("The same as a stream", _prompt(parts, "ann", stream=True)),
        ("A prompt of sue, who is in team support", _prompt(parts, "sue", stream=False)),
        (
            "A prompt of a workload in the namespace payments, known by its certificate",
            f"curl -is {parts.workloads}/v1/chat/completions {tls} {_body(SMALL, stream=False)}",
        ),
        ("The counters", f"{redis} --scan"),
        ("What dba has used this hour", f"{redis} GET '{DBA.bucket}:hour:{start_of('hour')}'"),
        (
            "What dba has left",
            f".venv/bin/ratelimit-service ask {DBA.domain} {DBA.descriptor} --server {service.grpc}",
        ),
        (
            "Give dba its budget back",
            f"{environment} .venv/bin/ratelimit-service reset {DBA.domain} {DBA.descriptor}",
        ),
        ("Budgets, those that need attention first", f"{operator} .venv/bin/ratelimit-service budgets"),
        (
            "Give dba 5,000 tokens more this hour",
            f"{operator} .venv/bin/ratelimit-service top-up {DBA.domain} {DBA.descriptor} 5000 "
            "--window hour --windows 1 --reason 'the launch is today'",
        ),
        ("The rules in force", f"curl -s http://{service.debug}/rlconfig"),
        ("Budgets, as Prometheus sees them", f"curl -s http://{service.metrics}/metrics | grep budget_"),
        ("Who used how much: every decision, with its user", f"tail -f {parts.decisions}"),
        ("Envoy's own page", f"curl -s http://{parts.envoy.admin}/stats?filter=ratelimit"),
    ]
    told = "\n\n".join([f"# {what}:\n{command}" for what, command in commands])
    page = (
        f"The page of its budgets, for a browser: {parts.page}\n"
        f"The token for changes there: {parts.token.read_text()}"
    )
    who = "Support and the namespace search go on asking."
    return f"\nIt is left running, until Ctrl-C. {who}\n\n{page}\n\nTo try in another terminal:\n\n{told}\n"


@contextmanager
def traffic(parts: Parts) -> Iterator[None]:
    """Send prompts meanwhile, so that the page has something to show; dba is left to whoever looks."""
    ended = threading.Event()
    sue = Caller(parts.teams, token=parts.company.token("sue", team="support"), model=SMALL)
    search = Caller(parts.workloads, context=parts.mesh.client(parts.mesh.workload(SEARCH.name)), model=SMALL)

    def ask() -> None:
        for number in itertools.count():
            if ended.wait(EVERY):
                return
            with suppress(httpx.TransportError):  # somebody may try what happens without the gateway
                (sue, search)[number % 2].ask(f"Prompt {number}", stream=False)

    thread = threading.Thread(target=ask, name="traffic")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        sue.close()
        search.close()


def _prompt(parts: Parts, user: str, *, stream: bool) -> str:
    token = f'-H "authorization: Bearer $(cat {parts.directory / f"{user}.jwt"})"'
    return f"curl -is {parts.teams}/v1/chat/completions {token} {_body(LARGE, stream=stream)}"


def _body(model: str, *, stream: bool) -> str:
    body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": "Hello?"}]}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return f"-H 'content-type: application/json' -d '{json.dumps(body)}'"
