# Build the control plane of Envoy Gateway and Envoy AI Gateway for the tests of rules over xDS: build/control-plane, from
# go-control-plane, by the hashes in tools/control_plane/go.sum. It takes about a minute on two cores, once. If it cannot be
# built, this prints why, and those tests are skipped.
set -eu
cd "$(dirname "$0")/.."

without() {
    echo "rules over xDS are not tested with go-control-plane here: $1" >&2
    exit 0
}

if [ build/control-plane -nt tools/control_plane/go.sum ] && [ build/control-plane -nt tools/control_plane/main.go ]; then exit 0; fi
if ! command -v go >/dev/null; then without 'go is not installed'; fi
sh tools/step.sh control-plane 'building a control plane (about a minute)'
mkdir -p build
log=$PWD/build/control-plane.log
if ! (
    cd tools/control_plane
    timeout 900 go build -trimpath -ldflags '-s -w' -o ../../build/control-plane.new .
) >"$log" 2>&1; then
    rm -f build/control-plane.new
    without "it cannot be built, see build/control-plane.log: $(tail -n 1 "$log")"
fi
mv build/control-plane.new build/control-plane
