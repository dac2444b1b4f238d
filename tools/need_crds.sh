# Copy the CustomResourceDefinitions of gateways to build/crds for the tests of deploy/, out of Go modules: those of tools/kinds, by
# the hashes in its go.sum, and Emissary's, by the hash here. Nothing is built. If they cannot be fetched, this prints why, and
# those tests are skipped.
set -eu
cd "$(dirname "$0")/.."

EMISSARY=github.com/emissary-ingress/emissary/v3@v3.10.0
EMISSARY_SUM=h1:fxK8OBUxN5bLJ3oq0az1iU9Lz+WEnWBKUwTvdita3rg=

without() {
    echo "objects of gateways are not checked against their CRDs here: $1" >&2
    exit 0
}

if [ build/crds -nt tools/kinds/go.sum ] && [ build/crds -nt tools/need_crds.sh ]; then exit 0; fi
if ! command -v go >/dev/null; then without 'go is not installed'; fi
sh tools/step.sh crds 'fetching the CustomResourceDefinitions of gateways (half a minute)'
new=$PWD/build/crds.new
rm -rf "$new" && mkdir -p "$new"
log=$PWD/build/crds.log

# copy MODULE FILE...: from a module of tools/kinds, whose hash go verifies.
copy() {
    module=$1
    shift
    (cd tools/kinds && timeout 600 go mod download "$module") >"$log" 2>&1 || without "$(tail -n 1 "$log")"
    directory=$(cd tools/kinds && go list -m -f '{{.Dir}}' "$module")
    for file; do cp "$directory"/$file "$new"; done # the pattern of a file is one word
}

copy github.com/envoyproxy/gateway 'charts/gateway-helm/charts/crds/crds/generated/*.yaml'
copy sigs.k8s.io/gateway-api 'config/crd/standard/*.k8s.io_*.yaml'
copy istio.io/api kubernetes/customresourcedefinitions.gen.yaml
copy github.com/projectcontour/contour examples/contour/01-crds.yaml

found=$(cd build && timeout 600 go mod download -json "$EMISSARY" 2>"$log") || without "$(printf '%s' "$found" | grep Error)"
if ! printf '%s' "$found" | grep -qF "\"Sum\": \"$EMISSARY_SUM\""; then
    echo "$EMISSARY has another hash than $EMISSARY_SUM" >&2
    exit 1
fi
cp "$(printf '%s' "$found" | sed -n 's/.*"Dir": "\(.*\)",*/\1/p')/pkg/api/getambassador.io/crds.yaml" "$new/emissary.yaml"

chmod -R u+w "$new"
rm -rf build/crds
mv "$new" build/crds
