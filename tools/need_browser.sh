# Install Chromium for tests/page with apt-get if that is possible. Without it, those tests are skipped with the reason.
set -eu

present() {
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        if command -v "$name" >/dev/null; then return 0; fi
    done
    return 1
}

if present; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    sh "$(dirname "$0")/step.sh" browser 'installing chromium by apt-get (a minute or two)'
    export DEBIAN_FRONTEND=noninteractive
    if { apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium; } </dev/null >/dev/null && present
    then exit 0; fi
fi
echo 'chromium is not installed: the tests of the page are skipped' >&2
