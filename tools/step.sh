# Print to stderr what a set-up does now, as "[2/3] installing 31 Python packages (a minute)": sh tools/step.sh NAME WHAT
# SETUP_STEPS has the names of the steps of the target in order (Makefile). A step that is not needed prints nothing, so a
# number may be missing.
name=$1
what=$2
# shellcheck disable=SC2086
set -- ${SETUP_STEPS:-}
all=$#
number=0
for step; do
    number=$((number + 1))
    if [ "$step" = "$name" ]; then
        echo "[$number/$all] $what" >&2
        exit 0
    fi
done
echo "$what" >&2
