# Set up the JavaScript SDKs that tests/e2e/test_sdks.py asks with, by the hashes in their lock file. Where Node 18 or newer, or npm, is
# missing, or the packages cannot be fetched, those tests are skipped and say so.
set -eu
cd "$(dirname "$0")/../tests/javascript"

command -v node >/dev/null && command -v npm >/dev/null || exit 0
[ "$(node -p 'parseInt(process.versions.node) >= 18')" = true ] || exit 0
if [ node_modules/.package-lock.json -nt package-lock.json ]; then exit 0; fi
echo 'fetching JavaScript SDKs ...'
# The newest of them asks for a newer Node than it needs, which is a warning.
npm ci --loglevel=error || echo 'they cannot be fetched: the tests with them are skipped' >&2
