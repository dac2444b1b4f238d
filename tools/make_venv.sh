# Make sure that a virtual environment is at $1 and works: sh tools/make_venv.sh .venv
# PYTHON names the interpreter to make it with; one that is there and works is left as it is.
set -eu
python=${PYTHON:-python3}

if "$1/bin/python" -m pip --version >/dev/null 2>&1; then exit 0; fi

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is needed, and $python is not: install one, then \`make PYTHON=python3.11 ...\`" >&2
    exit 1
fi
"$python" -m venv --clear "$1"
