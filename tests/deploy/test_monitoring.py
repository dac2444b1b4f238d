"""Dashboards and alerts as files: the metrics that they use exist, Grafana and the Operator accept their
format, and promtool finds no error. test_monitoring_running.py tests the results of their queries.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from ratelimit_service.observe.catalogue.all_metrics import CATALOGUE
from ratelimit_service.observe.catalogue.metric_info import Kind

from ..docs.documents import DOCS, tables
from .monitoring import DASHBOARDS, MONITORING, OF_GRAFANA, RULES, Dashboard, promtool, variables_in

OF_ENVOY = {
    f"envoy_cluster_ratelimit_{name}" for name in ("ok", "over_limit", "error", "failure_mode_allowed")
}
"""The metrics of Envoy's rate-limit filter."""

OF_PROCESSES = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
}

GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = [rule for group in GROUPS for rule in group["rules"] if "alert" in rule]
RECORDS = [rule for group in GROUPS for rule in group["rules"] if "record" in rule]
TESTS: list[dict[str, Any]] = yaml.safe_load((MONITORING / "ratelimit_test.yaml").read_text())["tests"]

each_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.stem)
def dashboard(request: pytest.FixtureRequest) -> Dashboard:
    """Each dashboard."""
    return Dashboard.read(request.param)


def unknown(query: str) -> set[str]:
    """Return the metrics in a query that the service does not have."""
    ours = {
        f"{metric.name}{suffix}"
        for metric in CATALOGUE
        for suffix in (("_bucket", "_count", "_sum") if metric.kind is Kind.HISTOGRAM else ("",))
    }
    ours |= {rule["record"].split(":")[1] for rule in RECORDS}
    return (
        set(re.findall(r"\b(?:ratelimit_service|envoy_cluster_ratelimit|process)_\w+", query))
        - ours
        - OF_ENVOY
        - OF_PROCESSES
    )


# Rules


def test_promtool_accepts_all_files() -> None:
    """With the configuration, its rules, and the tests of the rules."""
    promtool("check", "config", "prometheus.yaml")
    assert f"{len(ALERTS) + len(RECORDS)} rules found" in promtool("check", "rules", RULES)
    promtool("test", "rules", "ratelimit_test.yaml")


@each_alert
def test_every_alert_is_tested_both_firing_and_silent(alert: dict[str, Any]) -> None:
    """An alert that is never silent is as useless as one that never fires."""
    asked = [each for test in TESTS for each in test.get("alert_rule_test", ())]
    expected = [bool(each.get("exp_alerts")) for each in asked if each["alertname"] == alert["alert"]]
    assert {True, False} == set(expected)


@each_alert
def test_an_alert_has_a_severity_and_a_runbook(alert: dict[str, Any]) -> None:
    """The runbook is a page of docs/, under a heading with the name of the alert."""
    assert {"severity"} == alert["labels"].keys()
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert {"summary", "description", "runbook"} == alert["annotations"].keys()
    assert f"docs/operations.md#{alert['alert'].lower()}" == alert["annotations"]["runbook"]


def test_the_page_lists_every_alert() -> None:
    """With its severity, in the order of the file."""
    (table,) = tables(DOCS / "monitoring.md", "alert", "severity", "when")
    assert [[alert["alert"], alert["labels"]["severity"]] for alert in ALERTS] == [
        row[:2] for row in table.rows
    ]


def test_the_metrics_in_rules_exist() -> None:
    """An alert on a misspelt name never fires."""
    assert {} == {
        rule.get("alert", rule.get("record")): unknown(rule["expr"])
        for rule in ALERTS + RECORDS
        if unknown(rule["expr"])
    }


def test_the_operator_gets_the_same_rules() -> None:
    """prometheusrule.yaml is generated from rules/ratelimit.yaml."""
    manifest = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    assert ("PrometheusRule", {"groups": GROUPS}) == (manifest["kind"], manifest["spec"])


def test_the_directory_of_rules_has_no_other_file() -> None:
    """With the directory mounted, Prometheus loads every file in it."""
    assert [RULES] == list(RULES.parent.iterdir())


# Dashboards


def test_every_dashboard_is_in_the_configmap() -> None:
    """With the label that Grafana's sidecar looks for, and a name that does not change with the content."""
    (generated,) = yaml.safe_load((MONITORING / "kustomization.yaml").read_text())["configMapGenerator"]
    assert sorted(str(path.relative_to(MONITORING)) for path in DASHBOARDS) == generated["files"]
    assert {"disableNameSuffixHash": True, "labels": {"grafana_dashboard": "1"}} == generated["options"]


def test_each_dashboard_fits_into_a_configmap() -> None:
    """kubectl keeps the applied object in an annotation, and all annotations together may have 256 KiB."""
    assert sum(path.stat().st_size for path in DASHBOARDS) < 200_000


def test_dashboards_are_distinct_and_linked() -> None:
    """By uid, which is in their URLs, and by title. The link in each of them finds the others by a tag."""
    read = [Dashboard.read(path).json for path in DASHBOARDS]
    for name in ("uid", "title"):
        assert len(read) == len({each[name] for each in read})
    assert {"ratelimit"} == {tag for each in read for tag in each["tags"]}
    assert {("ratelimit",)} == {tuple(link["tags"]) for each in read for link in each["links"]}


def test_the_format_of_dashboards_is_that_of_grafana(dashboard: Dashboard) -> None:
    """The format is that of Grafana 10.4 and 11, which newer versions read."""
    assert 39 == dashboard.json["schemaVersion"]
    assert "id" not in dashboard.json  # otherwise, it would replace another dashboard
    assert re.fullmatch(r"[a-z-]{1,40}", dashboard.json["uid"])
    assert dashboard.json["title"]
    assert dashboard.json["description"]


def test_panels_do_not_overlap(dashboard: Dashboard) -> None:
    """They are within Grafana's 24 columns, and each has its own number."""
    ids = [panel["id"] for panel in dashboard.panels]
    assert len(ids) == len(set(ids))
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard.panels:
        at = panel["gridPos"]
        assert 0 <= at["x"] < at["x"] + at["w"] <= 24
        for cell in (
            (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
        ):
            assert cell not in taken, f"{panel['title']} is on {taken[cell]}"
            taken[cell] = panel["title"]


def test_a_panel_has_a_description_and_a_unit(dashboard: Dashboard) -> None:
    """Its queries use the selected data source, and each has its own name."""
    for panel in dashboard.panels:
        assert panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith("."), panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert refs
        assert len(refs) == len(set(refs))
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert {"type": "prometheus", "uid": "${datasource}"} == source
        for target in panel["targets"]:
            assert target["expr"]
            assert target["instant"] is not target["range"]
        if panel["type"] == "table":
            shown = {each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]}
            (organize,) = [each for each in panel["transformations"] if each["id"] == "organize"]
            assert shown <= set(organize["options"]["renameByName"].values())
        else:
            assert panel["fieldConfig"]["defaults"]["unit"]


def test_tiles_are_red_when_a_budget_is_exhausted(dashboard: Dashboard) -> None:
    """A share has colours at 80 % and at 100 %; a remaining amount is red at 0."""
    for panel in dashboard.panels:
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        if (
            panel["type"] == "stat"
            and "budget_limit" in panel["targets"][0]["expr"]
            and "count(" not in panel["targets"][0]["expr"]
        ):
            steps = [(step["value"], step["color"]) for step in defaults["thresholds"]["steps"]]
            shares, left = [(None, "green"), (0.8, "orange"), (1, "red")], [(None, "red"), (1, "green")]
            assert steps == (shares if defaults["unit"] == "percentunit" else left), panel["title"]
            assert "background" == panel["options"]["colorMode"]


def test_amounts_of_tokens_are_shown_in_full(dashboard: Dashboard) -> None:
    """Grafana's `short` rounds: 1,450,000 of 1,500,000 becomes "1 Mil" of "2 Mil" without decimals.

    `locale` has every digit.
    """
    full, asked = {"unit": "locale", "decimals": 0}, 0
    for panel in dashboard.panels:
        for target in panel.get("targets", ()):
            if not shows_tokens(target["expr"]):
                continue
            asked += 1
            defaults = panel["fieldConfig"]["defaults"]
            shown = {name: defaults.get(name) for name in full}
            if panel["type"] == "table":
                (organize,) = [each for each in panel["transformations"] if each["id"] == "organize"]
                column = organize["options"]["renameByName"][f"Value #{target['refId']}"]
                (override,) = [
                    each for each in panel["fieldConfig"]["overrides"] if each["matcher"]["options"] == column
                ]
                shown = {each["id"]: each["value"] for each in override["properties"] if each["id"] in full}
            assert full == shown, (panel["title"], target["refId"])
    assert asked or "service" == dashboard.path.stem


def shows_tokens(query: str) -> bool:
    """Return whether the result of a query is an amount of tokens, and not a share, a number of buckets, or
    seconds.
    """
    tokens = re.search(r"_budget_(used|limit)\b|increase\(ratelimit_service_rate_limit_total_hits", query)
    without_labels = re.sub(r"\{[^}]*\}", "", query)
    share = re.search(r"_used\) / max[^/]*_limit\)", without_labels)
    return bool(tokens) and not share and "count(" not in query


def test_the_metrics_in_queries_exist(dashboard: Dashboard) -> None:
    """This includes the queries of variables."""
    asked = {str(query): query.text for query in dashboard.queries()}
    asked |= {variable.name: variable.query for variable in dashboard.variables}
    assert {} == {name: unknown(text) for name, text in asked.items() if unknown(text)}


def test_every_variable_is_defined_and_used(dashboard: Dashboard) -> None:
    """A variable may use those before it."""
    known = set(OF_GRAFANA)
    used = set()
    for variable in dashboard.variables:
        assert variables_in(variable.query) <= known, variable.name
        used |= variables_in(variable.query)
        known.add(variable.name)
    texts = [query.text for query in dashboard.queries()] + [panel["title"] for panel in dashboard.panels]
    asked = set().union(*map(variables_in, texts))
    assert asked <= known
    assert {"datasource"} == {variable.name for variable in dashboard.variables} - used - asked
