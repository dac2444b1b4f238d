"""The parts of the package that are compiled: the native gRPC transport's HTTP/2, and the plain form of requests.

They are optional: without Cython, a compiler or libnghttp2's headers, the package is installed without them, unless the environment has
NATIVE=required. pyproject.toml says everything else.
"""

import os

from setuptools import setup

required = os.environ.get("NATIVE") == "required"
try:
    from Cython.Build import cythonize
    from setuptools import Extension
except ImportError:
    if required:
        raise
    modules = []
else:
    http2 = Extension(
        "ratelimit_service.transports.native._http2",
        ["ratelimit_service/transports/native/_http2.pyx"],
        libraries=["nghttp2"],
    )
    wire = Extension("ratelimit_service.transports._wire", ["ratelimit_service/transports/_wire.pyx"])
    modules = cythonize([http2, wire], build_dir="build", quiet=True)
    for module in modules:
        module.optional = not required  # here, because cythonize does not pass it on

setup(ext_modules=modules)
