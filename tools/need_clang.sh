# Make sure that clang and its sanitizers are installed: through apt-get where that is possible, else by saying how.
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
    echo 'installing clang ...'
    export DEBIAN_FRONTEND=noninteractive
    # What clang links for its sanitizers is a package of its own in some releases; where it is, clang recommends it.
    if { apt-get -qq update && apt-get -qq install -y clang; } </dev/null >/dev/null && present
    then exit 0; fi
fi
cat >&2 <<'END'
clang with libFuzzer and AddressSanitizer is needed, and not installed. One of these does it:
    sudo apt-get install clang              Debian, Ubuntu
    sudo dnf install clang compiler-rt      Fedora
END
exit 1
