#!/usr/bin/env bash
# Prepares the Python environment of the outside checks, outside the clone, and prints its interpreter; with arguments, runs it:
#
#   scripts/python.sh scripts/audit_duckdb.py --store ./driftline-data
#
# DRIFTLINE_VENV is its folder, DRIFTLINE_REQUIREMENTS the list of what is in it (scripts/requirements.txt).

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

requirements=${DRIFTLINE_REQUIREMENTS:-$DRIFTLINE_ROOT/scripts/requirements.txt}
python=$DRIFTLINE_VENV/bin/python
installed=$DRIFTLINE_VENV/requirements.txt

prepare() {
  have_venv || die "python3 with venv and pip is missing: scripts/setup.sh --tests installs it"
  mkdir -p "$(dirname "$DRIFTLINE_VENV")"
  exec 9>"$DRIFTLINE_VENV.lock"
  flock -w 600 9 || die "another set-up of the Python environment has held the lock for 10 minutes"
  cmp -s "$requirements" "$installed" && "$python" -c '' 2>/dev/null && return
  say "preparing the Python environment"
  rm -rf "$DRIFTLINE_VENV"
  python3 -m venv "$DRIFTLINE_VENV" >&2
  "$python" -m pip install --quiet --disable-pip-version-check --only-binary :all: --requirement "$requirements" >&2 9>&- ||
    die "pip could not install $requirements"
  # Copied last: an environment whose installation was cut off is made again.
  cp "$requirements" "$installed"
}

if ! { cmp -s "$requirements" "$installed" && "$python" -c '' 2>/dev/null; }; then (prepare); fi

if [[ $# -gt 0 ]]; then exec "$python" "$@"; else printf '%s\n' "$python"; fi
