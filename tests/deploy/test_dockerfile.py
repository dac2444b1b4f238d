"""The text of deploy/Dockerfile. test_container.py tests the image."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratelimit_service.settings.table import documented
from testing.service import REPOSITORY, port_of

from .dockerfile import Context, parse

STAGES = parse((REPOSITORY / "deploy" / "Dockerfile").read_text())
BUILDER, FINAL = STAGES
CONTEXT = Context(REPOSITORY, (REPOSITORY / ".dockerignore").read_text().splitlines())

DEFAULTS = {setting.name: setting.default for setting in documented()}


def test_both_stages_have_the_same_debian() -> None:
    """The compiled modules of the first stage link to libraries of the second."""
    assert {"debian:bookworm-slim"} == {stage.base for stage in STAGES}


def test_every_copied_file_is_in_the_context() -> None:
    """.dockerignore keeps every source of a COPY, and directories are not empty."""
    sources = [
        source
        for stage in STAGES
        for copy in stage.all("COPY")
        if "from" not in copy.flags
        for source in copy.words[:-1]
    ]
    assert sources
    assert [] == [source for source in sources if not CONTEXT.files(source)]


def test_the_context_has_the_package_without_build_results() -> None:
    """The image builds the extension, even if `make native` has left one in the checkout."""
    files = CONTEXT.files("ratelimit_service")
    assert {"ratelimit_service/cli/options.py", "ratelimit_service/transports/native/_http2.pyx"} <= set(
        files
    )
    assert [] == [file for file in files if file.endswith((".so", ".pyc"))]


@pytest.mark.parametrize(
    "path",
    [
        *(
            ".git/config",
            ".env",
            ".venv/bin/python",
            "build/base.tar",
            "testing/service.py",
            "config/token-budgets.yaml",
        ),
        *("deploy/Dockerfile", "ratelimit_service/http/__pycache__/main.cpython-311.pyc"),
        "ratelimit_service/transports/native/_http2.cpython-311-x86_64-linux-gnu.so",
        "ratelimit_service/transports/_wire.cpython-311-x86_64-linux-gnu.so",
    ],
)
def test_nothing_else_is_in_the_context(path: str) -> None:
    """No history, no secrets, and nothing that the build does not need."""
    assert not CONTEXT.has(path)


def test_python_packages_are_installed_by_hash() -> None:
    """Each `pip install` uses the lock file and wheels, or installs the package itself without a network."""
    installs = [run.text for run in BUILDER.all("RUN") if "pip install" in run.text]
    assert 2 == len(installs)
    assert "--only-binary=:all: --require-hashes -r requirements-tracing.lock" in installs[0]
    assert "--no-index --no-deps --no-build-isolation ." in installs[1]
    assert [] == [run.text for run in FINAL.all("RUN") if "pip" in run.text]


def test_the_user_is_a_number_and_not_root() -> None:
    """Kubernetes cannot verify runAsNonRoot for a user with a name."""
    (user,) = FINAL.all("USER")
    assert ["65532:65532"] == user.words
    after = FINAL.instructions[FINAL.instructions.index(user) + 1 :]
    assert {"STOPSIGNAL", "HEALTHCHECK", "CMD"} == {each.name for each in after}, "nothing is made after it"


def test_the_ports_are_those_that_the_service_opens() -> None:
    """With the defaults of the settings."""
    ports = {DEFAULTS[name] for name in ("GRPC_PORT", "PORT", "DEBUG_PORT")}
    ports.add(str(port_of(DEFAULTS["PROMETHEUS_ADDR"])))
    (expose,) = FINAL.all("EXPOSE")
    assert ports == set(expose.words)


def test_the_variables_are_settings() -> None:
    """The image sets the backend, so that no container uses the memory store by accident.

    The other variables are Python's.
    """
    (env,) = FINAL.all("ENV")
    assert "redis" == env.pairs["BACKEND_TYPE"]
    assert {"BACKEND_TYPE", "PATH", "PYTHONDONTWRITEBYTECODE"} == set(env.pairs)
    assert "BACKEND_TYPE" in DEFAULTS


def test_there_is_no_entrypoint() -> None:
    """Upstream's image has none: a `command` or `args` of "/bin/ratelimit" or of "sh" is the whole
    command.
    """
    (command,) = FINAL.all("CMD")
    assert ["/bin/ratelimit"] == command.words


# The parser


def test_continued_lines_comments_flags_and_quotes_are_parsed() -> None:
    """As Docker reads them, for the syntax that the Dockerfile uses."""
    (stage,) = parse(
        "ARG BASE=debian:x\nFROM ${BASE} AS one\n# a comment\nRUN a \\\n# within\n  && b\n"
        'ENV A="1 2" B=3\nCOPY --chmod=0755 x y/\n'
    )
    assert ("one", "debian:x") == (stage.name, stage.base)
    run, env, copy = stage.instructions
    assert ("RUN", "a   && b", 4) == (run.name, run.text, run.line)
    assert {"A": "1 2", "B": "3"} == env.pairs
    assert ({"chmod": "0755"}, ["x", "y/"]) == (copy.flags, copy.words)


@pytest.mark.parametrize("line", ["ADD x y", "RUN <<EOF", "ONBUILD RUN a", "run a"])
def test_an_unsupported_instruction_is_refused(line: str) -> None:
    """A step that the parser ignored would not be tested."""
    with pytest.raises(ValueError, match="line 2: cannot carry out"):
        parse(f"FROM debian\n{line}\n")


def test_the_last_matching_pattern_decides(tmp_path: Path) -> None:
    """As in .dockerignore: `!` includes a path again, and a pattern matches everything below a directory."""
    context = Context(tmp_path, ["*", "!kept", "# note", "", "**/*.so", "!kept/in/this.so"])
    paths = ["kept", "kept/a.py", "kept/in/a.so", "kept/in/this.so", "other", "other/kept"]
    assert ["kept", "kept/a.py", "kept/in/this.so"] == [path for path in paths if context.has(path)]
