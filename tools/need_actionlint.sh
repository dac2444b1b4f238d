# Build actionlint, unless it is installed: build/actionlint, from its Go module, by the hashes in tools/actionlint/go.sum. If it
# cannot be built, this prints why, and `make audit` says that it did not check the workflows with it.
set -eu
cd "$(dirname "$0")/.."

without() {
    echo "actionlint does not check the workflows here: $1" >&2
    exit 0
}

if [ build/actionlint -nt tools/actionlint/go.sum ] || command -v actionlint >/dev/null; then exit 0; fi
if ! command -v go >/dev/null; then without 'neither actionlint nor go is installed'; fi
sh tools/step.sh actionlint 'building actionlint (half a minute)'
mkdir -p build
if ! (cd tools/actionlint && timeout 300 go build -trimpath -o ../../build/actionlint github.com/rhysd/actionlint/cmd/actionlint) \
    >build/actionlint.log 2>&1; then
    without "it cannot be built, see build/actionlint.log: $(tail -n 1 build/actionlint.log)"
fi
touch build/actionlint
