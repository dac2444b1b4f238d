# Build a Go program for tests: build/NAME from tools/NAME, by the hashes in its go.sum, in about a minute on two cores, once.
#     sh tools/build_go.sh NAME WHAT WITHOUT
# WHAT is built is a step of the set-up (step.sh). If it cannot be built, this prints WITHOUT and why, and its tests are skipped.
# Hyphens of NAME are underscores in the directory.
set -eu
cd "$(dirname "$0")/.."
name=$1
what=$2
without=$3

skip() {
    echo "$without here: $1" >&2
    exit 0
}

directory=tools/$(printf '%s' "$name" | tr - _)
if [ "build/$name" -nt "$directory/go.sum" ] && [ "build/$name" -nt "$directory/main.go" ]; then exit 0; fi
if ! command -v go >/dev/null; then skip 'go is not installed'; fi
sh tools/step.sh "$name" "building $what (about a minute)"
mkdir -p build
log=$PWD/build/$name.log
if ! (cd "$directory" && timeout 900 go build -trimpath -ldflags '-s -w' -o "../../build/$name.new" .) >"$log" 2>&1; then
    rm -f "build/$name.new"
    skip "it cannot be built, see build/$name.log: $(tail -n 1 "$log")"
fi
mv "build/$name.new" "build/$name"
