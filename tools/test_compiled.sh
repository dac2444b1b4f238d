# Run the tests that go through the hot modules (HOT in setup.py) in a copy in which these are compiled.
#     sh tools/test_compiled.sh [options of pytest]
set -eu
python=$PWD/.venv/bin/python
tools=$PWD/tools
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
git ls-files -z | xargs -0 tar c | tar x -C "$scratch"
cd "$scratch"
COMPILE=hot NATIVE=required "$python" setup.py --quiet build_ext --inplace
ls ratelimit_service/core/planner.*.so >/dev/null
PYTHONPATH=$scratch sh "$tools/run_tests.sh" "$python" tests/core tests/contract tests/observe tests/properties tests/stores \
    tests/tracing tests/transports tests/vectors tests/test_service.py tests/test_deadlines.py "$@"
