# Write the lock files from pyproject.toml, with uv from a throw-away environment.
# UPGRADE=1 takes the newest versions; otherwise those that stand in a lock file stay, as long as they fit.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

sh tools/make_venv.sh "$scratch/venv"
"$scratch/venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input install uv

# compile FILE WHAT...: lock what is named into FILE. No addresses in it: which index to use is the business of whoever
# installs, and the hashes say whether what came is right.
compile() {
    "$scratch/venv/bin/uv" pip compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url \
        --universal --python-version 3.11 ${UPGRADE:+--upgrade} --output-file "$@" >/dev/null
}

compile requirements.lock pyproject.toml --group build
# The constraint gives the tests, which share an environment with the service, the same version of everything.
compile requirements-dev.lock pyproject.toml --group dev --constraint requirements.lock
compile requirements-xds.lock --group xds
