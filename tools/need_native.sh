# Install what the native transport is built with (a C compiler, Python's headers, nghttp2 1.52 or newer with its headers),
# with apt-get if that is possible; otherwise print how to install it.
set -eu
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

compiles() {
    echo '#include <nghttp2/nghttp2.h>
        int main(void) { nghttp2_option_set_max_continuations(0, 8); return 0; }' >"$scratch/try.c"
    ${CC:-cc} "$scratch/try.c" -o "$scratch/try" -lnghttp2 >"$scratch/said" 2>&1
}
has_python_headers() {
    "$python" -c 'import pathlib, sys, sysconfig
sys.exit(not (pathlib.Path(sysconfig.get_paths()["include"]) / "Python.h").exists())'
}
present() { compiles && has_python_headers; }

if present; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    sh "$(dirname "$0")/step.sh" native 'installing gcc and libnghttp2-dev by apt-get (half a minute)'
    export DEBIAN_FRONTEND=noninteractive
    packages='gcc libc6-dev libnghttp2-dev'
    if ! has_python_headers; then packages="$packages python3-dev"; fi
    # shellcheck disable=SC2086
    if { apt-get -qq update && apt-get -qq install -y --no-install-recommends $packages; } </dev/null >/dev/null && present
    then exit 0; fi
fi
{
    echo 'The native transport cannot be built, and the tests need both transports. Missing:'
    if ! command -v "${CC:-cc}" >/dev/null; then echo '    a C compiler'
    elif ! compiles; then echo '    nghttp2 1.52 or newer with its headers; the compiler says:'; sed 's/^/        /' "$scratch/said"; fi
    if ! has_python_headers; then echo "    the headers of $python"; fi
    cat <<'END'
One of these commands installs it:
    sudo apt-get install gcc libc6-dev libnghttp2-dev python3-dev    Debian, Ubuntu
    sudo dnf install gcc libnghttp2-devel python3-devel              Fedora
    brew install libnghttp2                                          macOS
END
} >&2
exit 1
