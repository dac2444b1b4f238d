# Create a virtual environment at $1, unless there is one that works: sh tools/make_venv.sh .venv
# PYTHON names the interpreter.
set -eu
python=${PYTHON:-python3}

if "$1/bin/python" -m pip --version >/dev/null 2>&1; then exit 0; fi

if ! version=$("$python" -c 'import sys; print(sys.version_info >= (3, 11), sys.version.split()[0])' 2>/dev/null); then
    wrong="$python cannot be run"
elif [ "${version% *}" != True ]; then
    wrong="$python is Python ${version#* }"
fi
if [ -n "${wrong:-}" ]; then
    echo "$wrong: install Python 3.11 or newer, and run \`make PYTHON=python3.11 ...\`" >&2
    exit 1
fi
sh "$(dirname "$0")/step.sh" "$1" "creating $1 (a few seconds)"
"$python" -m venv --clear "$1"
