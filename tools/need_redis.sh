# Install redis-server and redis-cli with apt-get if that is possible; otherwise print how to install them.
set -eu

present() { command -v redis-server >/dev/null && command -v redis-cli >/dev/null; }

if present; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    sh "$(dirname "$0")/step.sh" redis 'installing redis-server by apt-get (half a minute)'
    export DEBIAN_FRONTEND=noninteractive
    if { apt-get -qq update && apt-get -qq install -y --no-install-recommends redis-server; } </dev/null >/dev/null && present
    then exit 0; fi
fi
cat >&2 <<'END'
redis-server and redis-cli are not installed. One of these commands installs them:
    sudo apt-get install redis-server      Debian, Ubuntu
    sudo dnf install redis                 Fedora
    brew install redis                     macOS
END
exit 1
