# Install h2load (nghttp2's load generator) and taskset with apt-get if that is possible; otherwise print how to install them.
set -eu

present() { command -v h2load >/dev/null && command -v taskset >/dev/null; }

if present; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    sh "$(dirname "$0")/step.sh" h2load 'installing h2load by apt-get (half a minute)'
    export DEBIAN_FRONTEND=noninteractive
    if { apt-get -qq update && apt-get -qq install -y --no-install-recommends nghttp2-client util-linux; } </dev/null >/dev/null \
        && present
    then exit 0; fi
fi
{
    echo 'The measurements need h2load (of nghttp2) and taskset (of util-linux). Missing:'
    command -v h2load >/dev/null || echo '    h2load'
    command -v taskset >/dev/null || echo '    taskset'
    cat <<'END'
One of these commands installs them. taskset is available on Linux only:
    sudo apt-get install nghttp2-client util-linux    Debian, Ubuntu
    sudo dnf install nghttp2 util-linux               Fedora
END
} >&2
exit 1
