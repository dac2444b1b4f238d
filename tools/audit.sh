# Check what is shipped, and how: licences, secrets, workflows, and the locked versions for known vulnerabilities. PATH begins
# with the tools of requirements-release.lock. Exits 1 if something is wrong; what cannot be checked here is said.
set -u
cd "$(dirname "$0")/.."
failed=0

echo 'licences of what is shipped:'
# Every licence here permits use and redistribution in a program under Apache-2.0 (that of certifi, MPL 2.0, as long as its files are
# not changed); a new one is read before it is added.
pip-licenses --python=.venv/bin/python --packages $(sed -n 's/^\([A-Za-z0-9_.-]*\)==.*/\1/p' requirements-tracing.lock) \
    --from=mixed --partial-match --allow-only='Apache;MIT;BSD;Python Software Foundation;PSF;ISC;Public Domain;Mozilla Public License 2.0' || failed=1

echo 'secrets:'
# Tests have keys of their own, and examples have addresses with a password in them. Patterns of known secrets are looked for,
# and not what merely looks random.
if found=$(git ls-files -z -- ':!tests' ':!*.lock' | xargs -0 detect-secrets-hook --disable-plugin Base64HighEntropyString \
    --disable-plugin HexHighEntropyString --disable-plugin KeywordDetector --disable-plugin BasicAuthDetector 2>&1); then
    echo 'none found'
else
    echo "$found"
    failed=1
fi

echo 'workflows:'
if actionlint=$(command -v build/actionlint || command -v actionlint); then
    "$actionlint" && echo 'actionlint finds nothing' || failed=1
else
    echo 'actionlint is not here: not checked by it'
fi
zizmor --offline --quiet --persona=pedantic .github || failed=1

echo 'vulnerabilities of the locked versions:'
out=$(timeout 120 pip-audit --disable-pip --require-hashes --requirement requirements-tracing.lock --progress-spinner off 2>&1)
case $?:$out in
0:*'could not be audited'*) echo 'not checked: the database that answers here does not know the packages' ;;
0:*) echo "$out" ;;
124:* | *ConnectionError* | *ServiceError* | *"Failed to"*) echo "not checked: the database cannot be reached from here" ;;
*) echo "$out"; failed=1 ;;
esac
exit "$failed"
