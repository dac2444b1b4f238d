# Run the tests of the compiled modules with a build that aborts at the first invalid memory access or undefined behaviour.
# It is built in a copy, because it can be loaded only after the sanitizers.
#     sh tools/sanitize_native.sh [options of pytest]
# With NGHTTP2_SOURCE, nghttp2 is built from that source (tools/build_nghttp2.sh), with the sanitizers.
set -eu
python=$PWD/.venv/bin/python
tools=$PWD/tools
if [ -n "${NGHTTP2_SOURCE:-}" ]; then NGHTTP2_SOURCE=$(cd "$NGHTTP2_SOURCE" && pwd) && export NGHTTP2_SOURCE; fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
flags='-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1'

cp -R ratelimit_service testing tests setup.py pyproject.toml "$scratch"
find "$scratch/ratelimit_service" -name '*.so' -exec rm {} +
cd "$scratch"
paths=
linked=
if [ -n "${NGHTTP2_SOURCE:-}" ]; then
    CC=gcc CFLAGS=$flags sh "$tools/build_nghttp2.sh" "$scratch/nghttp2"
    paths="-I$scratch/nghttp2/include" linked="-L$scratch/nghttp2/lib"
fi
CC=gcc CFLAGS="$flags $paths" LDFLAGS="$flags $linked" "$python" setup.py --quiet build_ext --inplace 2>build.log || { cat build.log >&2; exit 1; }
ls ratelimit_service/core/holds/_codes.*.so ratelimit_service/transports/_wire.*.so ratelimit_service/transports/native/_http2.*.so >/dev/null

# Python's own allocator would hide reads beyond the end of a block. Leaks are not detected, because the interpreter itself
# never frees some memory; tests/transports/native/test_fuzz.py counts objects instead.
PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=$scratch \
    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    sh "$tools/run_tests.sh" "$python" \
    tests/core/holds/test_codes.py tests/transports/native tests/transports/test_wire.py tests/transports/test_trace_context.py "$@"
