"""What docs/api.md shows is run: each command with curl, against a service."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import httpx

from testing.service import Service, calling

from .documents import DOCS, blocks

ADMIN = "an-admin-token-0123"
RULES = """\
domain: token-budgets
descriptors:
  - key: team
    rate_limits: [{unit: hour, tokens_per_unit: 5000}, {unit: day, tokens_per_unit: 50000}]
  - {key: user, rate_limit: {unit: day, tokens_per_unit: 1000}}
"""


def test_the_commands_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    """In their order, each block in a shell that stops at the first failure; then the domain is blocked."""
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    shown = [block for block in blocks(DOCS / "api.md") if block.info == "sh"]
    environment = {"BACKEND_TYPE": "memory", "CONFIG_PATH": str(rules), "ADMIN_TOKEN": ADMIN}
    with Service(environment) as service:
        api = f"http://{service.debug}/api/v1"
        for block in shown:
            done = subprocess.run(
                [
                    "bash",
                    "-euo",
                    "pipefail",
                    "-c",
                    f'curl() {{ command curl --silent --show-error --fail-with-body "$@"; }}\n{block.text}',
                ],
                env={"PATH": os.environ["PATH"], "API": api, "ADMIN_TOKEN": ADMIN, "NO_PROXY": "*"},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert 0 == done.returncode, f"line {block.line}: {done.stdout}{done.stderr}"
        lines = httpx.get(f"{api}/audit", trust_env=False, timeout=60).json()["lines"]
        with calling(service.grpc) as caller:
            blocked = caller.ask("token-budgets", "team", "dba")
    assert [
        ("put", "*"),
        ("reset", "team=dba"),
        ("remove", "user=eve"),
        ("put", "user=eve"),
        ("put", "team=dba"),
    ] == [(line["action"], line["descriptor"]) for line in lines]
    assert blocked.OVER_LIMIT == blocked.overall_code
