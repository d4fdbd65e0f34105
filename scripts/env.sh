# Sourced by the other scripts: strict mode, where things lie, and how the scripts speak.
# shellcheck shell=bash

set -euo pipefail

DRIFTLINE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Everything that is built or downloaded lies outside the clone, so that a fresh clone finds it again.
DRIFTLINE_CACHE=${DRIFTLINE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/driftline}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$DRIFTLINE_CACHE/target}
DRIFTLINE_VENV=${DRIFTLINE_VENV:-$DRIFTLINE_CACHE/venv}

export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

# A line about what happens, on stderr: stdout belongs to data.
say() { printf '%s\n' "$*" >&2; }

# Ends the script with a reason.
die() {
  say "error: $*"
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# True when a missing service or tool must fail the run instead of being skipped.
require_all() { [[ ${DRIFTLINE_REQUIRE_ALL:-0} == 1 ]]; }

# True when Java 17 or newer is on the path; Kafka 4 does not start on less.
have_java() {
  have java || return 1
  local major
  major=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
  [[ ${major:-0} -ge 17 ]]
}

# True when there is a compiler too, and not the bare runtime.
have_jdk() { have_java && have javac; }

# True when python3 can make a virtual environment with pip in it.
have_venv() { have python3 && python3 -c 'import ensurepip, venv' >/dev/null 2>&1; }

# make_once PLACE COMMAND…: unless PLACE is there, runs the command with an empty folder as its last argument, which then becomes PLACE.
# Of those who ask together the first one makes it and the others find it; what was cut off is never taken for the whole.
make_once() {
  local place=$1
  shift
  [[ ! -e $place ]] || return 0
  mkdir -p "$(dirname "$place")"
  (
    exec 8>"$place.lock"
    flock -w 1800 8 || die "somebody else has been making $place for half an hour"
    [[ ! -e $place ]] || exit 0
    staging=$(mktemp -d "$place.XXXXXX")
    trap 'rm -rf "$staging"' EXIT
    # In a process of its own, whose path and folder are not ours.
    ("$@" "$staging") 8>&-
    # As mktemp makes it, nobody else may read it.
    chmod 755 "$staging"
    mv -T "$staging" "$place"
  )
}
