"""A container image made without a container engine: the steps of a Dockerfile, carried out in plain
directories.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from .dockerfile import Context, Instruction, Stage, filled_in
from .jail import HOST, jailed

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""The variables that Debian's images set."""

PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""Variables that `docker build` also passes on, so that a build can use the network of its machine."""

PIP = ("index-url", "extra-index-url", "find-links", "no-index", "cert", "trusted-host", "proxy", "timeout")
"""Variables about the package index of this machine. The lock file determines the packages and their
hashes.
"""


class Image(NamedTuple):
    """The root file system of an image, and its configuration."""

    root: Path
    environment: dict[str, str]
    workdir: str
    user: str
    command: list[str]
    healthcheck: list[str]
    stop_signal: str
    ports: set[int]

    def started(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        user: str = "",
        mounts: Mapping[str, Path] | None = None,
    ) -> list[str]:
        """Return the command that starts another one in a container of this image, with a read-only root."""
        settings = [f"{name}={value}" for name, value in {**self.environment, **environment}.items()]
        return jailed(
            self.root,
            ["/usr/bin/env", "-i", *settings, *command],
            workdir=self.workdir,
            user=user or self.user,
            read_only=True,
            mounts=mounts,
        )

    def run(
        self, *command: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in its own container to the end."""
        return subprocess.run(
            self.started(command, environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )


def build(stages: Sequence[Stage], context: Context, base: Path, directory: Path) -> Image:
    """Build all stages, each in a directory below this one, and return what the last one is. `base` is a tar.

    They are built side by side; a COPY --from waits for the stage that it names.
    """
    built: dict[str, Future[Image]] = {stage.name: Future() for stage in stages}
    outside = _Outside(directory)
    with ThreadPoolExecutor(len(stages)) as pool:

        def make(stage: Stage) -> None:
            try:
                builder = _Builder(directory / stage.name, base, context, built, outside)
                built[stage.name].set_result(builder.build(stage.instructions))
            except BaseException as error:
                built[stage.name].set_exception(error)

        for stage in stages:
            pool.submit(make, stage)
    images = [built[stage.name].result() for stage in stages]
    return images[-1]


class _Outside:
    """The settings of this machine with which a build can fetch packages of Debian and Python."""

    def __init__(self, directory: Path) -> None:
        self.environment = {name: os.environ[name] for name in PROXIES if name in os.environ}
        self.mounts: dict[str, Path] = {}
        if bundle := os.environ.get("REQUESTS_CA_BUNDLE"):
            self.environment["REQUESTS_CA_BUNDLE"] = self._brought_if_path(bundle)
        self._apt(directory / "apt.conf")
        self._pip()

    def _apt(self, file: Path) -> None:
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
        ways = ("Acquire::http", "Acquire::Check-", "Acquire::Retries")
        file.write_text("".join(f"{line}\n" for line in dump.splitlines() if line.startswith(ways)))
        self.environment["APT_CONFIG"] = self._brought(file)

    def _pip(self) -> None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
        output = subprocess.run(pip, capture_output=True, text=True, check=True).stdout
        settings = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
        for name in sorted(
            settings, key=lambda name: name.startswith(":env:")
        ):  # those of the environment come last, and take precedence
            option, value = name.rpartition(".")[2], str(ast.literal_eval(settings[name]))
            if option in PIP and (brought := self._brought_if_path(value)):
                self.environment[f"PIP_{option.upper().replace('-', '_')}"] = brought

    def _brought_if_path(self, value: str) -> str:
        if not value.startswith("/"):
            return value
        return self._brought(Path(value)) if Path(value).exists() else ""

    def _brought(self, path: Path) -> str:
        inside = f"{HOST}/{len(self.mounts)}/{path.name}"
        self.mounts[inside] = path.resolve()
        return inside


class _Builder:
    """Carries out the instructions of a stage."""

    def __init__(
        self, root: Path, base: Path, context: Context, built: Mapping[str, Future[Image]], outside: _Outside
    ) -> None:
        root.mkdir()
        subprocess.run(["tar", "--extract", "--file", base, "--directory", root], check=True)
        self._root = root
        self._context = context
        self._built = built
        self._outside = outside
        self._image = Image(root, dict(ENVIRONMENT), "/", "", [], [], "SIGTERM", set())

    def build(self, instructions: Iterable[Instruction]) -> Image:
        """Carry them all out. Raises RuntimeError, with what was printed, where one fails."""
        for instruction in instructions:
            match instruction.name:
                case "RUN":
                    self._run(instruction)
                case "COPY":
                    self._copy(instruction)
                case _:
                    self._describe(instruction)
        return self._image

    def _describe(self, instruction: Instruction) -> None:
        image, words = self._image, instruction.words
        match instruction.name:
            case "ENV":
                filled = {
                    name: filled_in(value, image.environment) for name, value in instruction.pairs.items()
                }
                self._image = image._replace(environment={**image.environment, **filled})
            case "WORKDIR":
                (workdir,) = words
                self._inside(workdir).mkdir(parents=True, exist_ok=True)
                self._image = image._replace(workdir=workdir)
            case "USER":
                (user,) = words
                self._image = image._replace(user=user)
            case "CMD":
                self._image = image._replace(command=words)
            case "HEALTHCHECK":
                assert instruction.text.startswith("CMD ["), "exec form: it must not depend on a shell"
                command = instruction._replace(text=instruction.text.removeprefix("CMD ")).words
                self._image = image._replace(healthcheck=command)
            case "STOPSIGNAL":
                (signal,) = words
                self._image = image._replace(stop_signal=signal)
            case "EXPOSE":
                self._image = image._replace(ports=image.ports | {int(word) for word in words})
            case "LABEL":
                assert instruction.pairs
            case _:
                raise RuntimeError(f"line {instruction.line}: {instruction.name} cannot be carried out here")

    def _run(self, instruction: Instruction) -> None:
        if instruction.flags or self._image.user:
            raise RuntimeError(f"line {instruction.line}: this RUN cannot be carried out here")
        command = jailed(
            self._root,
            ["/bin/sh", "-c", instruction.text],
            workdir=self._image.workdir,
            mounts=self._outside.mounts,
            network_files=True,
        )
        # In the environment and not on the command line, because the address of an index is private.
        environment = {"HOME": "/root", **self._image.environment, **self._outside.environment}
        with tempfile.TemporaryFile() as log:
            code = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
            ).returncode
            if code:
                log.seek(0)
                said = log.read().decode(errors="backslashreplace").splitlines()[-60:]
                raise RuntimeError(
                    "\n".join([f"line {instruction.line}: RUN {instruction.text} ended with {code}:", *said])
                )

    def _copy(self, instruction: Instruction) -> None:
        *sources, target = instruction.words
        into = self._inside(os.path.join(self._image.workdir, target))  # noqa: PTH118 - a trailing slash means something
        mode = instruction.flags.get("chmod")
        if stage := instruction.flags.get("from"):
            root = self._built[stage].result().root
            (source,) = sources
            subprocess.run(["cp", "--archive", "--no-target-directory", root / source[1:], into], check=True)
            return
        for source in sources:
            files = self._context.files(source)
            if not files:
                raise RuntimeError(f"line {instruction.line}: nothing of {source} is in the context")
            for file in files:
                # The contents of a directory are copied, a file as it is, into what ends with a slash or is a
                # directory.
                inner = os.path.relpath(file, source) if (self._context.root / source).is_dir() else ""
                named = Path(file).name if not inner and (target.endswith("/") or into.is_dir()) else ""
                to = into / inner / named if inner or named else into
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self._context.root / file, to)
                if mode:
                    to.chmod(int(mode, 8))

    def _inside(self, path: str) -> Path:
        """Return where a path of the image is on this machine; symbolic links of the image lead nowhere
        else.
        """
        found = self._root / path.lstrip("/")
        for parent in (found, *found.parents):
            if parent == self._root:
                break
            if parent.is_symlink():
                raise RuntimeError(f"{path} is behind a symbolic link: name the place itself")
        return found
