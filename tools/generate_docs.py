"""Write what is made from tables in the code, and from other files: pages of docs/, and parts of deploy/.

With --check, only say whether they are current.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from textwrap import indent

from ratelimit_service.observe import catalogue_page
from ratelimit_service.settings.table import documented
from ratelimit_service.settings.unsupported import UNNEEDED, UNSUPPORTED

ROOT = Path(__file__).resolve().parent.parent

SETTINGS_HEAD = """\
# Settings

Everything is set by environment variables, read once at the start. A variable that envoyproxy/ratelimit has too has its
name and its meaning here; where our default differs, theirs is named. Those marked "Ours" are new.

Durations are Go's (`24h`, `1m30s`, `200ms`), as upstream writes them. A value that a variable cannot have stops the
start with a line that says what would be right. As upstream has it, a variable set to nothing is read as nothing, not as
unset: fine for a text, wrong for a number. Truth values are `true` and `false`, and what else Go reads as such.
"""

UNSUPPORTED_HEAD = """\
## Upstream's variables that mean nothing here

Where one of them asks for something, a warning at the start names it.

| variable | instead |
|---|---|
"""

UNNEEDED_HEAD = """\
## Upstream's variables that need not be set

They may be; what they are for is done anyway.

| variable | how |
|---|---|
"""


RULES = ROOT / "deploy" / "monitoring" / "rules" / "ratelimit.yaml"

PROMETHEUS_RULE_HEAD = """\
# Made from rules/ratelimit.yaml by `make docs`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: ratelimit
  namespace: ratelimit
  labels: {app.kubernetes.io/name: ratelimit}
spec:
"""


def prometheus_rule() -> str:
    """deploy/monitoring/prometheusrule.yaml: the groups of rules/ratelimit.yaml as an object of Kubernetes."""
    groups = RULES.read_text("utf-8").partition("\ngroups:\n")[2]
    return PROMETHEUS_RULE_HEAD + indent(f"groups:\n{groups}", "  ")


HELM_SCHEMA = ROOT / "deploy" / "helm" / "ratelimit-service" / "values.schema.json"

_OF_A_SETTING = ["string", "number", "boolean", "null"]


def helm_schema() -> str:
    """The schema of the chart's values, with every setting as a property of `settings`: a misspelt one is refused."""
    schema = json.loads(HELM_SCHEMA.read_text("utf-8"))
    schema["properties"]["settings"]["properties"] = {
        setting.name: {"description": setting.meaning, "type": _OF_A_SETTING} for setting in documented()
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def settings_page() -> str:
    """docs/settings.md."""
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
    """Everything that is generated, by its file."""
    return {
        ROOT / "docs" / "metrics.md": catalogue_page.markdown(),
        ROOT / "docs" / "settings.md": settings_page(),
        ROOT / "deploy" / "monitoring" / "prometheusrule.yaml": prometheus_rule(),
        HELM_SCHEMA: helm_schema(),
    }


def main() -> int:
    """Write, or check; the exit code."""
    check = "--check" in sys.argv[1:]
    stale = {
        page: text for page, text in pages().items() if not page.exists() or page.read_text("utf-8") != text
    }
    for page, text in stale.items():
        if check:
            print(f"{page.relative_to(ROOT)} is not what the code says: run `make docs`")
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
