# Unpack prometheus and promtool from Debian's package into .prometheus/, unless they are installed. Installing the package
# would start a server on port 9090, the port of the service's metrics.
set -eu
cd "$(dirname "$0")/.."

present() {
    { command -v prometheus && command -v promtool; } >/dev/null ||
        { [ -x .prometheus/prometheus ] && [ -x .prometheus/promtool ]; }
}
unpack() (
    scratch=$(mktemp -d .prometheus.XXXXXX)
    trap 'rm -rf "$OLDPWD/$scratch"' EXIT
    cd "$scratch"
    apt-get -qq download prometheus </dev/null >/dev/null 2>&1 || exit 1
    dpkg-deb --extract prometheus_*.deb . || exit 1
    rm -rf ../.prometheus && mv usr/bin ../.prometheus
)

if present; then exit 0; fi
if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    sh tools/step.sh prometheus 'fetching prometheus (half a minute)'
    if unpack && present; then exit 0; fi
    if [ "$(id -u)" = 0 ] && apt-get -qq update </dev/null >/dev/null && unpack && present; then exit 0; fi
fi
cat >&2 <<'END'
The tests need prometheus and promtool (2.42 or newer). One of these commands provides them:
    sudo apt-get update        Debian, Ubuntu: `make test` then fetches the package and unpacks it, without installing it
    brew install prometheus    macOS
Elsewhere, put both from the archive of a release of Prometheus on the PATH.
END
exit 1
