"""Commands to try while everything keeps running (KEEP=1)."""

from __future__ import annotations

import json
import shlex

from .books import DBA, PAYMENTS, start_of
from .parts import LARGE, SMALL, Parts

PEOPLE = {"ann": "dba", "sue": "support"}
"""People whose tokens are written to files, and their teams."""


def to_try(parts: Parts) -> str:
    """Write the tokens of PEOPLE into files, and return the commands."""
    for user, team in PEOPLE.items():
        (parts.directory / f"{user}.jwt").write_text(parts.company.token(user, team=team))
    certificate, key = parts.mesh.workload(PAYMENTS.name)
    environment = " ".join([f"{name}={shlex.quote(value)}" for name, value in parts.environment.items()])
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
        ("The rules in force", f"curl -s http://{service.debug}/rlconfig"),
        ("Budgets, as Prometheus sees them", f"curl -s http://{service.metrics}/metrics | grep budget_"),
        ("Who used how much: every decision, with its user", f"tail -f {parts.decisions}"),
        ("Envoy's own page", f"curl -s http://{parts.envoy.admin}/stats?filter=ratelimit"),
    ]
    told = "\n\n".join([f"# {what}:\n{command}" for what, command in commands])
    return f"\nIt is left running, until Ctrl-C. To try in another terminal:\n\n{told}\n"


def _prompt(parts: Parts, user: str, *, stream: bool) -> str:
    token = f'-H "authorization: Bearer $(cat {parts.directory / f"{user}.jwt"})"'
    return f"curl -is {parts.teams}/v1/chat/completions {token} {_body(LARGE, stream=stream)}"


def _body(model: str, *, stream: bool) -> str:
    body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": "Hello?"}]}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return f"-H 'content-type: application/json' -d '{json.dumps(body)}'"
