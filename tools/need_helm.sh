# Build helm for the tests of deploy/helm, unless it is installed: build/helm, from its Go module, by the hashes in
# tools/helm/go.sum. It takes about a minute on two cores, once. If it cannot be built, this prints why, and those tests are
# skipped.
set -eu
cd "$(dirname "$0")/.."

without() {
    echo "the Helm chart is not tested here: $1" >&2
    exit 0
}

if [ build/helm -nt tools/helm/go.sum ] || command -v helm >/dev/null; then exit 0; fi
if ! command -v go >/dev/null; then without 'neither helm nor go is installed'; fi
sh tools/step.sh helm 'building helm (about a minute)'
mkdir -p build
log=$PWD/build/helm.log
# Linked like helm's own releases: `helm lint` checks a chart against the Kubernetes version of helm's client.
if ! (
    cd tools/helm
    client=$(go list -m -f '{{.Version}}' k8s.io/client-go)
    minor=${client#v0.}
    minor=${minor%%.*}
    versions=
    for package in chartutil lint/rules; do
        path=helm.sh/helm/v3/pkg/$package
        versions="$versions -X $path.k8sVersionMajor=1 -X $path.k8sVersionMinor=$minor"
    done
    timeout 900 go build -trimpath -ldflags "-s -w$versions" -o ../../build/helm.new helm.sh/helm/v3/cmd/helm
) >"$log" 2>&1; then
    rm -f build/helm.new
    without "it cannot be built, see build/helm.log: $(tail -n 1 "$log")"
fi
mv build/helm.new build/helm
