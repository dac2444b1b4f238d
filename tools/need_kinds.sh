# Build build/kinds for the tests of deploy/: it decodes objects into the Go types of Envoy Gateway, Istio, Contour and the
# Gateway API. It is built from tools/kinds by the hashes in its go.sum, in about a minute on two cores, once. If it cannot
# be built, this prints why, and those tests are skipped.
set -eu
cd "$(dirname "$0")/.."

without() {
    echo "objects of gateways are not checked against their types here: $1" >&2
    exit 0
}

if [ build/kinds -nt tools/kinds/go.sum ] && [ build/kinds -nt tools/kinds/main.go ]; then exit 0; fi
if ! command -v go >/dev/null; then without 'go is not installed'; fi
sh tools/step.sh kinds 'building the types of gateways (about a minute)'
mkdir -p build
log=$PWD/build/kinds.log
if ! (cd tools/kinds && timeout 900 go build -trimpath -ldflags '-s -w' -o ../../build/kinds.new .) >"$log" 2>&1; then
    rm -f build/kinds.new
    without "it cannot be built, see build/kinds.log: $(tail -n 1 "$log")"
fi
mv build/kinds.new build/kinds
