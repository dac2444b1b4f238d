# Build the source distribution into a directory, with the interpreter PYTHON: sh tools/make_sdist.sh dist
set -eu
mkdir -p "$1"
tools=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
sh "$tools/step.sh" sdist 'building the source distribution'
"${PYTHON:-.venv/bin/python}" setup.py --quiet egg_info --egg-base "$scratch" sdist --dist-dir "$1"
