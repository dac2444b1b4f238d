"""The parts of the package that are compiled: the native gRPC transport's HTTP/2, the plain form of requests,
and hot modules.

They are optional: without Cython, a compiler or libnghttp2's headers, the package is installed without them,
unless the environment has NATIVE=required. pyproject.toml says everything else.

HOT are modules in Python, which Cython compiles as they are; both forms do the same, and the tests run both.
They are compiled for wheels and images. A build in place (an editable installation, `make native`) leaves
them alone unless the environment has COMPILE=hot: Python prefers a compiled module to the source beside it,
so it would hide every edit.
"""

import os
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PACKAGE = "ratelimit_service"
HOT = (
    "core/amendments/index",
    "core/answers/refusal",
    "core/bounds",
    "core/decision",
    "core/hit",
    "core/holds/hit",
    "core/holds/ids",
    "core/holds/planning",
    "core/holds/results",
    "core/holds/state",
    "core/ledger/hit",
    "core/matching/keys",
    "core/matching/tree",
    "core/model",
    "core/planner",
    "core/plan",
    "core/prepared",
    "core/cache",
    "core/rule_windows",
    "core/windows/blocks",
    "deadlines",
    "observe/holds",
    "observe/metrics",
    "observe/observers",
    "observe/tables",
    "service",
    "stores/batch",
    "stores/dump",
    "stores/holds",
    "stores/lanes",
    "stores/layers/group_commit",
    "stores/layers/settling",
    "stores/memory",
    "stores/redis/cluster",
    "stores/redis/hold_arguments",
    "stores/redis/ledger_arguments",
    "stores/redis/pipeline",
    "stores/redis/script",
    "stores/redis/server",
    "stores/redis/slots",
    "stores/redis/store",
    "stores/redis/wire",
    "transports/answers",
    "transports/codec",
    "transports/native/calls",
    "transports/native/connection",
)
TYPED = (
    "core/holds/results",
    "observe/holds",
    "observe/observers",
    "service",
    "stores/holds",
    "transports/codec",
)
"""Those of them whose annotations Cython takes for types of C where their .pxd declares these."""
LIBRARIES = {"core/holds/_codes": [], "transports/_wire": [], "transports/native/_http2": ["nghttp2"]}

required = os.environ.get("NATIVE") == "required"


def extension(module, suffix, libraries=()):
    """Return one compiled module; a failure to build it is a warning unless it is required."""
    path = f"{PACKAGE}/{module}"
    return Extension(
        path.replace("/", "."), [path + suffix], libraries=list(libraries), optional=not required
    )


class build_compiled(build_ext):
    """Build the compiled modules, on all cores."""

    def run(self):
        """Translate the modules to C, and compile them."""
        try:
            from Cython.Build import cythonize
        except ImportError:
            if required:
                raise
            sys.stderr.write("warning: without Cython, nothing is compiled\n")
            self.extensions = []
        else:
            hot = (
                HOT if not (self.inplace or self.editable_mode) or os.environ.get("COMPILE") == "hot" else ()
            )
            translated = cythonize(
                [extension(module, ".pyx", libraries) for module, libraries in LIBRARIES.items()],
                build_dir="build",
                quiet=True,
            )
            for typed in (False, True):
                translated += cythonize(
                    [extension(module, ".py") for module in hot if (module in TYPED) is typed],
                    build_dir="build",
                    quiet=True,
                    # Elsewhere annotations are for mypy: Cython would check each value against them, and make
                    # C doubles of floats.
                    compiler_directives={"language_level": 3, "annotation_typing": typed},
                )
            for module in translated:
                module.optional = not required  # cythonize does not pass it on
                module._needs_stub = False
            self.extensions = translated
        self.parallel = self.parallel or os.cpu_count()
        super().run()


modules = [extension(module, ".pyx", libraries) for module, libraries in LIBRARIES.items()]
setup(ext_modules=modules, cmdclass={"build_ext": build_compiled})
