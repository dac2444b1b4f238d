# Run pytest. With RERUN_FAILED=1, tests that fail run once more, alone, and only those that fail again count.
#     sh tools/run_tests.sh PYTHON [options of pytest]
set -u
python=$1
shift
[ "${RERUN_FAILED:-}" = 1 ] || exec "$python" -m pytest "$@"

# The cache names what failed: nothing of an earlier run, and nothing if the run did not end by itself.
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT
"$python" -m pytest -o cache_dir="$cache" "$@"
status=$?
[ "$status" = 1 ] || exit "$status"
echo "Running the tests that failed once more, alone:"
"$python" -m pytest -o cache_dir="$cache" --last-failed --last-failed-no-failures=none "$@" || exit
echo "FLAKY: these tests passed only when run again; each is a bug. Their failures are above."
