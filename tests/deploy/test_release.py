"""Releases: one version in every file, notes from the changelog, and workflows whose dependencies cannot
change.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from testing.service import REPOSITORY, inherited
from tools.version import notes, problem, version

WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"[\w./-]+@[0-9a-f]{40}")

IMAGE = re.compile(r"ratelimit-service:(\d+\.\d+\.\d+)\b")


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((REPOSITORY / "deploy/helm/ratelimit-service/Chart.yaml").read_text())
    assert version() == chart["version"] == chart["appVersion"]


def test_every_reference_to_the_image_has_the_version_of_the_package() -> None:
    files = [
        REPOSITORY / "README.md",
        *(REPOSITORY / "deploy").rglob("*.yaml"),
        *(REPOSITORY / "deploy").rglob("*.md"),
    ]
    named = {tag for file in files for tag in IMAGE.findall(file.read_text())}
    assert {version()} == named


def test_the_commands_build_the_image_that_the_manifests_name() -> None:
    """Without a tag, docker builds `latest`, which a cluster with the chart or the manifests does not look
    for.
    """
    pages = [REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("deploy/**/*.md")]
    built = [tag for page in pages for tag in re.findall(r"docker build .*-t (\S+)", page.read_text())]
    assert len(built) > 1
    assert {f"ratelimit-service:{version()}"} == set(built)


def test_the_notes_of_a_version_are_its_section_of_the_changelog() -> None:
    changelog = "# Changelog\n\n## [0.2.0] - 2026-11-28\n\n### Added\n\n- b\n\n## [0.1.0]\n\n- a\n"
    assert "### Added\n\n- b" == notes("0.2.0", changelog)
    assert "- a" == notes("0.1.0", changelog)
    assert notes("0.3.0", changelog) is None


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    """Changes are listed for the version that will have them: what is built from this tree says that it is
    this version.
    """
    assert problem() is None


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose version 1.2.0 is released."""
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("## [1.2.0] - 2026-11-28\n\n- a\n")
    git = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.com")
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "Release 1.2.0"), ("tag", "v1.2.0")):
        subprocess.run((*git, *command), env=inherited(), check=True)
    return tmp_path


@pytest.mark.parametrize(
    "version, changelog, wrong",
    [
        ("1.2.0", "## [1.2.0] - 2026-11-28\n\n- a\n", None),
        ("1.2.0", "## [1.2.0] - 2026-11-28\n\n- a\n- b\n", "v1.2.0 is released"),
        ("1.2.0", "## [Unreleased]\n\n- b\n\n## [1.2.0] - 2026-11-28\n\n- a\n", "the first section must be"),
        ("1.2.0", "## [1.2.0]\n\n- a\n", "the first section must be"),
        ("1.3.0", "## [1.3.0] - 2026-12-24\n\n- b\n\n## [1.2.0] - 2026-11-28\n\n- a\n", None),
        ("1.3.0", "## [1.2.0] - 2026-11-28\n\n- a\n", "the first section must be"),
    ],
)
def test_changes_are_listed_for_a_version_that_is_not_released(
    project: Path, version: str, changelog: str, wrong: str | None
) -> None:
    (project / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n')
    (project / "CHANGELOG.md").write_text(changelog)
    found = problem(project)
    assert (wrong is None) == (found is None)
    assert (wrong or "") in (found or "")


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_every_action_is_pinned_by_its_digest(file: Path) -> None:
    used = re.findall(r"uses: (\S+)", file.read_text())
    assert used
    assert [] == [action for action in used if not action.startswith("./") and not PINNED.fullmatch(action)]


def test_a_finding_that_is_ignored_has_its_reason_above() -> None:
    """Of zizmor and actionlint, which `make audit` runs. Neither has a configuration to ignore more."""
    ignored = []
    for file in WORKFLOWS:
        lines = file.read_text().splitlines()
        for above, line in pairwise(lines):
            if re.search(r"(zizmor|actionlint): *ignore", line):
                ignored.append(file.name)
                assert re.match(r" +# \w", above), f"{file.name}: {line.strip()}"
    assert ["release.yml"] == ignored
    assert not [*REPOSITORY.glob(".github/zizmor.*"), *REPOSITORY.glob(".github/actionlint.*")]


def test_continuous_integration_runs_the_targets_of_make() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    assert ".ci/run" == workflow["jobs"]["all"]["steps"][-1]["run"]


def test_a_job_builds_the_opentelemetry_collector_before_it_runs_its_tests() -> None:
    """`make test` skips them, because the build takes minutes."""
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    commands = [step["run"] for step in workflow["jobs"]["coverage"]["steps"] if "run" in step]
    assert ["make collector && test -x build/collector", "make coverage"] == commands[-2:]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_all_tests_run_with_the_whole_history(file: Path) -> None:
    """By default, a checkout has one commit, and the tests that need the previous version would be
    skipped.
    """
    for job in yaml.safe_load(file.read_text())["jobs"].values():
        steps = job.get("steps", [])
        if any(".ci/run" in step.get("run", "") for step in steps):
            (checkout,) = (step for step in steps if step.get("uses", "").startswith("actions/checkout@"))
            assert 0 == checkout["with"]["fetch-depth"]


def test_classifiers_and_wheels_are_for_the_tested_pythons() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    tested = workflow["jobs"]["all"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    named = (
        each.removeprefix("Programming Language :: Python :: ") for each in project["project"]["classifiers"]
    )
    assert tested == [name for name in named if re.fullmatch(r"3\.\d+", name)]
    assert [
        f"cp{python.replace('.', '')}-{system}_*"
        for system in ("manylinux", "musllinux")
        for python in tested
    ] == (project["tool"]["cibuildwheel"]["build"].split())
