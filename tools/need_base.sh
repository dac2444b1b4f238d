# Create the root file system in which tests/deploy/ builds the container image, as a tar at $1:
#     sh tools/need_base.sh build/base.tar
# It is the Debian of deploy/Dockerfile, made by mmdebstrap, which is installed with apt-get. It is made again after a month.
# Without the rights to install and mount, this prints the reason, and those tests are skipped.
set -eu
base=$1
image=$(sed -n 's/^ARG DEBIAN=//p' deploy/Dockerfile)
suite=${image#debian:}
suite=${suite%-slim}

without() {
    echo "the container image is not tested here: $1" >&2
    exit 0
}

if [ -n "$(find "$base" -mtime -30 2>/dev/null)" ]; then exit 0; fi
if [ "$(id -u)" != 0 ]; then without 'chroot needs root'; fi
if ! unshare --mount --pid --fork true 2>/dev/null; then without 'unshare --mount --pid is not permitted'; fi
if ! command -v mmdebstrap >/dev/null; then
    if ! command -v apt-get >/dev/null; then without 'mmdebstrap is not installed'; fi
    sh tools/step.sh base 'installing mmdebstrap by apt-get (half a minute)'
    if ! { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
        mmdebstrap debian-archive-keyring; } </dev/null >/dev/null; then without 'mmdebstrap cannot be installed'; fi
fi

# If this machine runs the same Debian, use its mirrors.
sources=
if (. /etc/os-release && [ "${ID-}/${VERSION_CODENAME-}" = "debian/$suite" ]); then
    for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
        if [ -z "$sources" ] && [ -s "$file" ]; then sources=$file; fi
    done
fi

proxy=
eval "$(apt-config shell proxy Acquire::http::Proxy)"

sh tools/step.sh base "making a $image to build the container image in (a minute)"
mkdir -p "$(dirname "$base")"
log=$base.log
# -slim means without manuals and translations, and images do not keep downloaded packages. A build is temporary, so nothing
# is synced to the disk.
if ! mmdebstrap --quiet --mode=root --variant=minbase --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --include=usr-is-merged ${proxy:+--aptopt="Acquire::http::Proxy \"$proxy\""} --customize-hook='
        echo "APT::Keep-Downloaded-Packages \"false\";" >"$1/etc/apt/apt.conf.d/docker-clean"' \
    "$suite" "$base.new.tar" $sources >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$base.new.tar"
    exit 1
fi
mv "$base.new.tar" "$base"
