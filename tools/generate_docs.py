"""Generate pages of docs/ and files of deploy/ from tables in the code and from other files.

With --check, only report whether they are current.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from textwrap import indent

from ratelimit_service.api import reference as api_page
from ratelimit_service.observe.catalogue import page as catalogue_page
from ratelimit_service.settings.table import documented
from ratelimit_service.settings.unsupported import UNNEEDED, UNSUPPORTED
from tools import licences

ROOT = Path(__file__).resolve().parent.parent

SETTINGS_HEAD = """\
# Settings

Environment variables configure the service; they are read once, at the start. A variable of
envoyproxy/ratelimit has the same name and meaning here; if the default differs, upstream's is given.
Variables marked "Ours" are new.

Durations are written as in Go (`24h`, `1m30s`, `200ms`). An invalid value stops the start, with a line that
says what is valid. As in upstream, an empty variable is an empty text and not an unset variable: valid for a
text, invalid for a number. Booleans are `true` and `false`, and the other forms that Go accepts.
"""

UNSUPPORTED_HEAD = """\
## Upstream's variables without effect

A warning at the start names each of them that asks for something missing here.

| variable | instead |
|---|---|
"""

UNNEEDED_HEAD = """\
## Upstream's variables that are not needed

They may be set; the service serves their purpose anyway.

| variable | how |
|---|---|
"""


RULES = ROOT / "deploy" / "monitoring" / "rules" / "ratelimit.yaml"

PROMETHEUS_RULE_HEAD = """\
# Generated from rules/ratelimit.yaml by `make docs`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: ratelimit
  namespace: ratelimit
  labels: {app.kubernetes.io/name: ratelimit}
spec:
"""


def prometheus_rule() -> str:
    """Return deploy/monitoring/prometheusrule.yaml: the groups of rules/ratelimit.yaml as a Kubernetes
    object.
    """
    groups = RULES.read_text("utf-8").partition("\ngroups:\n")[2]
    return PROMETHEUS_RULE_HEAD + indent(f"groups:\n{groups}", "  ")


HELM_SCHEMA = ROOT / "deploy" / "helm" / "ratelimit-service" / "values.schema.json"

_OF_A_SETTING = ["string", "number", "boolean", "null"]


def helm_schema() -> str:
    """Return the schema of the chart's values, with every setting as a property of `settings`, to reject
    typos.
    """
    schema = json.loads(HELM_SCHEMA.read_text("utf-8"))
    schema["properties"]["settings"]["properties"] = {
        setting.name: {"description": setting.meaning, "type": _OF_A_SETTING} for setting in documented()
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def settings_page() -> str:
    """Return docs/settings.md."""
    parts = [SETTINGS_HEAD]
    for group, settings in groupby(documented(), lambda setting: setting.group):
        rows = [
            f"| `{setting.name}` | {_code(setting.default)} | {_cell(setting.meaning)} |"
            for setting in settings
        ]
        parts.append(
            "\n".join([f"## {group}\n", "| variable | default | meaning |", "|---|---|---|", *rows, ""])
        )
    rows = [
        f"| {', '.join(f'`{name}`' for name in variables.names)} | {_cell(variables.instead)} |"
        for variables in UNSUPPORTED
    ]
    parts.append(UNSUPPORTED_HEAD + "\n".join(rows) + "\n")
    rows = [
        f"| {', '.join(f'`{name}`' for name in variables.names)} | {_cell(variables.instead)} |"
        for variables in UNNEEDED
    ]
    parts.append(UNNEEDED_HEAD + "\n".join(rows) + "\n")
    return "\n".join(parts)


def pages() -> dict[Path, str]:
    """Return every generated file and its text."""
    return {
        ROOT / "docs" / "api.md": api_page.markdown(),
        ROOT / "docs" / "licences.md": licences.page(),
        ROOT / "docs" / "metrics.md": catalogue_page.markdown(),
        ROOT / "docs" / "settings.md": settings_page(),
        ROOT / "deploy" / "monitoring" / "prometheusrule.yaml": prometheus_rule(),
        HELM_SCHEMA: helm_schema(),
    }


def main() -> int:
    """Write or check, and return the exit code."""
    check = "--check" in sys.argv[1:]
    stale = {
        page: text for page, text in pages().items() if not page.exists() or page.read_text("utf-8") != text
    }
    for page, text in stale.items():
        if check:
            print(f"{page.relative_to(ROOT)} is not current: run `make docs`")
        else:
            page.write_text(text, "utf-8")
            print(f"wrote {page.relative_to(ROOT)}")
    return 1 if check and stale else 0


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    sys.exit(main())
