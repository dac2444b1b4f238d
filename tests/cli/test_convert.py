"""`convert`, and manifests in the other commands."""

from __future__ import annotations

from pathlib import Path

from testing.service import Service

from .conftest import Command

MANIFESTS = Path(__file__).parents[1] / "manifests"
CONFIGMAP = MANIFESTS / "ok" / "as_json.yaml"
SOLO = MANIFESTS / "ok" / "kubectl_list.yaml"

PRINTED = f"""\
# From {CONFIGMAP}:6: data[config.yaml]
domain: token-budgets
descriptors:
  - key: client_ns
    rate_limit:
      unit: minute
      requests_per_unit: 100
"""


def test_a_manifest_is_converted_to_a_file_with_the_same_rules(command: Command) -> None:
    """It goes to stdout, so that it can be redirected to a file."""
    assert (0, PRINTED, "") == command("convert", str(CONFIGMAP))


def test_a_converted_file_is_converted_to_itself(command: Command, tmp_path: Path) -> None:
    """A configuration is converted to itself."""
    file = tmp_path / "config.yaml"
    file.write_text(command("convert", str(CONFIGMAP)).out)
    code, out, err = command("convert", str(file))
    assert (0, "") == (code, err)
    assert PRINTED.splitlines()[1:] == out.splitlines()[1:]


def test_several_configurations_are_several_documents(command: Command) -> None:
    """Warnings go to stderr, with the advice to use a file for each document."""
    code, out, err = command("convert", str(SOLO), "--domain", "llm")
    assert (0, ["domain: llm", "domain: edge"]) == (
        code,
        [line for line in out.splitlines() if line.startswith("domain")],
    )
    assert 1 == out.splitlines().count("---")
    assert [
        "note: each document is a configuration: put it into a file of its own, because only the first "
        "document of a file is read"
    ] == [line for line in err.splitlines() if not line.startswith("warning: ")]


def test_an_invalid_manifest_is_not_printed(command: Command) -> None:
    """Errors go to stderr, and stdout stays empty."""
    bad = MANIFESTS / "bad" / "no_data.yaml"
    code, out, err = command("convert", str(bad))
    assert (1, "") == (code, out)
    assert f"error: {bad}:1: data: is missing or empty" in err


def test_check_config_takes_manifests_and_their_domain(command: Command) -> None:
    """The domain comes from the option or the environment. Without one, there is an error."""
    code, out, _ = command("check-config", str(SOLO))
    assert (1, True) == (code, "a RateLimitConfig has no domain" in out)
    for ended in (
        command("check-config", str(SOLO), "--domain", "llm"),
        command("check-config", str(SOLO), MANIFEST_DOMAIN="llm"),
    ):
        assert (0, "ok: 3 rules in 2 domains") == (ended.code, ended.out.splitlines()[-1])


def test_serve_takes_manifests_and_their_domain(command: Command) -> None:
    """The rules are in force, as if they were in configuration files."""
    environment = {"CONFIG_PATH": str(SOLO), "MANIFEST_DOMAIN": "llm", "BACKEND_TYPE": "memory"}
    with Service(environment) as service:
        code, out, _ = command("ask", "llm", "user=ada,model=large", "--hits", "1", "--server", service.grpc)
    assert (3, "OVER_LIMIT") == (code, out.splitlines()[0])
