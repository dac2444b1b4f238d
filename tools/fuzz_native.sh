# Fuzz the native transport's HTTP/2 with libFuzzer, under AddressSanitizer and UndefinedBehaviorSanitizer, guided by the
# coverage of the extension (tests/fuzz/native.py). Inputs that fail are written to build/fuzz/found; `FOUND=path` replays
# one. The corpus in build/fuzz/corpus grows from run to run.
#     SECONDS_LONG=60 sh tools/fuzz_native.sh [options of libFuzzer]
# With NGHTTP2_SOURCE, nghttp2 is built from that source (tools/build_nghttp2.sh), with coverage and the sanitizers.
set -eu
python=$PWD/.venv/bin/python
tools=$PWD/tools
out=$PWD/build/fuzz
if [ -n "${NGHTTP2_SOURCE:-}" ]; then NGHTTP2_SOURCE=$(cd "$NGHTTP2_SOURCE" && pwd) && export NGHTTP2_SOURCE; fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
sanitizers='-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1'

mkdir -p "$out/corpus" "$out/found"
"$python" -m tests.fuzz.seeds "$scratch/seeds"
cp -R ratelimit_service testing tests setup.py pyproject.toml "$scratch"
find "$scratch/ratelimit_service" -name '*.so' -exec rm {} +
cd "$scratch"
flags="$sanitizers -fsanitize=fuzzer-no-link"
paths=
linked=
if [ -n "${NGHTTP2_SOURCE:-}" ]; then
    CC=clang CFLAGS=$flags sh "$tools/build_nghttp2.sh" "$scratch/nghttp2"
    paths="-I$scratch/nghttp2/include" linked="-L$scratch/nghttp2/lib"
fi
CC=clang LDSHARED="clang -shared" CFLAGS="$flags $paths" LDFLAGS="$flags $linked" \
    "$python" setup.py --quiet build_ext --inplace >build.log 2>&1 || { cat build.log >&2; exit 1; }
ls ratelimit_service/core/holds/_codes.*.so ratelimit_service/transports/_wire.*.so ratelimit_service/transports/native/_http2.*.so >/dev/null

# How to embed this Python: its headers, its library, and the run-time path of the library.
embedding=$("$python" -c 'import sysconfig
of = sysconfig.get_config_var
shared = of("Py_ENABLE_SHARED")
place = of("LIBDIR") if shared else of("LIBPL")
rest = "" if shared else of("LIBS") + " " + of("SYSLIBS")
path = sysconfig.get_paths()["include"]
print("-I" + path, "-L" + place, "-Wl,-rpath," + place, "-lpython" + of("LDVERSION"), rest)')
# shellcheck disable=SC2086
clang $sanitizers -fsanitize=fuzzer -rdynamic tests/fuzz/libfuzzer.c $embedding -o fuzzer

# Python's own allocator would hide reads beyond the end of a block. Memory that the interpreter never frees is reachable, so
# LeakSanitizer does not report it.
export PYTHONMALLOC=malloc PYTHONPATH="$scratch" PYTHONDONTWRITEBYTECODE=1 FUZZ_PYTHON="$python"
export ASAN_OPTIONS=detect_leaks=1:quarantine_size_mb=32 UBSAN_OPTIONS=print_stacktrace=1
if [ -n "${FOUND:-}" ]; then
    case $FOUND in /*) ./fuzzer "$FOUND" ;; *) ./fuzzer "$OLDPWD/$FOUND" ;; esac
    exit
fi
status=0
./fuzzer -max_total_time="${SECONDS_LONG:-60}" -max_len=16384 -timeout=20 -rss_limit_mb=1024 -print_final_stats=1 \
    -artifact_prefix="$out/found/" "$@" "$out/corpus" seeds 2>fuzz.log || status=$?
grep -E '^(Done|stat::|==|SUMMARY|#[0-9]+.*(INITED|DONE))' fuzz.log || tail -5 fuzz.log
if [ "$status" != 0 ]; then
    tail -n 60 fuzz.log >&2
    echo "an input has failed: it is in build/fuzz/found; FOUND=<that file> make fuzz-native replays it" >&2
fi
exit "$status"
