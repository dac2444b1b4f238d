# Write the lock files from pyproject.toml, with uv in a temporary environment.
# Versions in a lock file are kept as long as they fit; UPGRADE=1 takes the newest ones.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

sh tools/make_venv.sh "$scratch/venv"
"$scratch/venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input install uv

# compile FILE WHAT...: lock into FILE. It has no addresses: the user chooses the index, and the hashes verify the packages.
compile() {
    "$scratch/venv/bin/uv" pip compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url \
        --universal --python-version 3.11 ${UPGRADE:+--upgrade} --output-file "$@" >/dev/null
}

compile requirements.lock pyproject.toml --group build
# With what tracing needs, for the image. The constraints give all environments the same versions.
compile requirements-tracing.lock pyproject.toml --extra tracing --group build --constraint requirements.lock
compile requirements-dev.lock pyproject.toml --extra tracing --group dev --constraint requirements-tracing.lock
compile requirements-xds.lock --group xds
compile requirements-release.lock --group release
