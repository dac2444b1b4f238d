# Print the directory of nghttp2's source: NGHTTP2_SOURCE, or the C source in the crate libnghttp2-sys, which cargo fetches
# into build/nghttp2 and which must have the hash in tools/nghttp2/Cargo.toml. No Rust is built.
set -eu
cd "$(dirname "$0")/.."
if [ -n "${NGHTTP2_SOURCE:-}" ]; then
    cd "$NGHTTP2_SOURCE"
    pwd
    exit 0
fi
into=$PWD/build/nghttp2/vendor
if [ ! "$into/fetched" -nt tools/nghttp2/Cargo.toml ]; then
    if ! command -v cargo >/dev/null; then
        echo "nghttp2's source is needed: install cargo, or set NGHTTP2_SOURCE to the directory of a release" >&2
        exit 1
    fi
    sh tools/step.sh nghttp2-source "fetching nghttp2's source by cargo (a few seconds)"
    rm -rf "$into"
    mkdir -p "$into"
    # A copy, because cargo writes a lock file, with the address of its registry, beside the manifest.
    cp tools/nghttp2/Cargo.toml tools/nghttp2/empty.rs build/nghttp2
    cargo vendor --quiet --versioned-dirs --manifest-path build/nghttp2/Cargo.toml "$into" >/dev/null 2>build/nghttp2/cargo.log || {
        echo "cargo cannot fetch nghttp2's source:" >&2
        cat build/nghttp2/cargo.log >&2
        exit 1
    }
    sha256=$(sed -n 's/^sha256 = "\(.*\)"$/\1/p' tools/nghttp2/Cargo.toml)
    if ! grep -q "\"package\":\"$sha256\"" "$into"/libnghttp2-sys-*/.cargo-checksum.json; then
        echo "the crate with nghttp2's source does not have the hash in tools/nghttp2/Cargo.toml" >&2
        exit 1
    fi
    touch "$into/fetched"
fi
echo "$into"/libnghttp2-sys-*/nghttp2
