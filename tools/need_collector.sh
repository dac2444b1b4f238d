# Build the OpenTelemetry Collector for the tests of tracing: build/collector, from its Go modules, by the hashes in
# tools/collector/go.sum. It takes about a minute on two cores, once. If it cannot be built, this prints why, and those tests
# are skipped.
set -eu
cd "$(dirname "$0")/.."

without() {
    echo "tracing is not tested with the OpenTelemetry Collector here: $1" >&2
    exit 0
}

if [ build/collector -nt tools/collector/go.sum ] && [ build/collector -nt tools/collector/main.go ]; then exit 0; fi
if ! command -v go >/dev/null; then without 'go is not installed'; fi
sh tools/step.sh collector 'building the OpenTelemetry Collector (about a minute)'
mkdir -p build
log=$PWD/build/collector.log
if ! (cd tools/collector && timeout 900 go build -trimpath -ldflags '-s -w' -o ../../build/collector.new .) >"$log" 2>&1; then
    rm -f build/collector.new
    without "it cannot be built, see build/collector.log: $(tail -n 1 "$log")"
fi
mv build/collector.new build/collector
