# Install clang and its sanitizers with apt-get if that is possible; otherwise print how to install them.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

present() {
    echo '#include <stdint.h>
        #include <stddef.h>
        int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { (void)data; (void)size; return 0; }' >"$scratch/try.c"
    clang -fsanitize=fuzzer,address,undefined "$scratch/try.c" -o "$scratch/try" >"$scratch/said" 2>&1
}

if present; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    sh "$(dirname "$0")/step.sh" clang 'installing clang by apt-get (a minute)'
    export DEBIAN_FRONTEND=noninteractive
    # In some releases the sanitizers are a separate package, which clang recommends.
    if { apt-get -qq update && apt-get -qq install -y clang; } </dev/null >/dev/null && present
    then exit 0; fi
fi
cat >&2 <<'END'
clang with libFuzzer and AddressSanitizer is not installed. One of these commands installs it:
    sudo apt-get install clang              Debian, Ubuntu
    sudo dnf install clang compiler-rt      Fedora
END
exit 1
