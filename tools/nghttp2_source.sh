# Print the directory of nghttp2's source: NGHTTP2_SOURCE, or the C source in the crate libnghttp2-sys, which cargo fetches
# into build/nghttp2 by the hash in tools/nghttp2/Cargo.lock. No Rust is built.
set -eu
cd "$(dirname "$0")/.."
if [ -n "${NGHTTP2_SOURCE:-}" ]; then
    cd "$NGHTTP2_SOURCE"
    pwd
    exit 0
fi
into=$PWD/build/nghttp2/vendor
if [ ! "$into/fetched" -nt tools/nghttp2/Cargo.lock ]; then
    if ! command -v cargo >/dev/null; then
        echo "nghttp2's source is needed: install cargo, or set NGHTTP2_SOURCE to the directory of a release" >&2
        exit 1
    fi
    rm -rf "$into"
    mkdir -p "$into"
    cargo vendor --quiet --locked --versioned-dirs --manifest-path tools/nghttp2/Cargo.toml "$into" >/dev/null 2>build/nghttp2/cargo.log || {
        echo "cargo cannot fetch nghttp2's source:" >&2
        cat build/nghttp2/cargo.log >&2
        exit 1
    }
    touch "$into/fetched"
fi
echo "$into"/libnghttp2-sys-*/nghttp2
