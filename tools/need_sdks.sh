# Install the JavaScript SDKs of tests/e2e/test_sdks.py by the hashes in their lock file. Without Node 18 or newer and npm, or
# if the packages cannot be fetched, those tests are skipped with the reason.
set -eu
cd "$(dirname "$0")/../tests/javascript"

command -v node >/dev/null && command -v npm >/dev/null || exit 0
[ "$(node -p 'parseInt(process.versions.node) >= 18')" = true ] || exit 0
if [ node_modules/.package-lock.json -nt package-lock.json ]; then exit 0; fi
sh ../../tools/step.sh sdks 'fetching JavaScript SDKs (half a minute)'
# The newest of them warns that it wants a newer Node than it needs.
npm ci --loglevel=error || echo 'they cannot be fetched: the tests with them are skipped' >&2
