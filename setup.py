"""The one part of the package that is compiled: the native gRPC transport's HTTP/2.

It is optional: without Cython, a compiler or libnghttp2's headers, the package is installed without it. pyproject.toml
says everything else.
"""

from setuptools import setup

try:
    from Cython.Build import cythonize
    from setuptools import Extension
except ImportError:
    modules = []
else:
    http2 = Extension(
        "ratelimit_service.transports.native._http2",
        ["ratelimit_service/transports/native/_http2.pyx"],
        libraries=["nghttp2"],
    )
    modules = cythonize([http2], build_dir="build", quiet=True)
    for module in modules:
        module.optional = True  # here, because cythonize does not pass it on

setup(ext_modules=modules)
