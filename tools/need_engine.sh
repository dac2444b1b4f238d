# Fail unless cibuildwheel can start containers: it builds each wheel of `make wheels` in the image of its manylinux or musllinux.
# CIBW_CONTAINER_ENGINE is cibuildwheel's own variable; it may have options after the name of the engine.
set -eu
engine=${CIBW_CONTAINER_ENGINE:-docker}
engine=${engine%%[;: ]*}
if ! command -v "$engine" >/dev/null; then missing="$engine is not installed"
elif ! "$engine" info >/dev/null 2>&1; then missing="\`$engine info\` fails: its daemon does not run, or this user may not use it"
else exit 0; fi
echo "make wheels needs docker, or podman with CIBW_CONTAINER_ENGINE=podman, and $missing; \`make wheel\` builds one wheel, for this Python and platform, without containers" >&2
exit 1
