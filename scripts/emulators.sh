#!/usr/bin/env bash
# Emulators of Azure Blob Storage (Azurite, by npm) and Google Cloud Storage (fake-gcs-server, by Go) on this machine.
#
#   scripts/emulators.sh start [azure] [gcs]   starts both, or those named; prints NAME=VALUE lines to export
#   scripts/emulators.sh env [azure] [gcs]     the same lines for those that run
#   scripts/emulators.sh stop                  ends both
#   scripts/emulators.sh wipe                  ends both and removes their objects
#   scripts/emulators.sh status | logs | build
#
# DRIFTLINE_EMULATORS_PORT (19200; `free` finds some at start) tells sets apart: Azurite takes it, the XML front of the GCS
# emulator the next one (scripts/emulators/gcs_xml.py says why there is one), and the GCS emulator itself the third.

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
source "$DRIFTLINE_ROOT/scripts/toolchains.sh"

# The newest that runs on Node 20.
azurite_version=3.35.0
gcs_version=v1.56.1
bucket=driftline
# Azurite's account and key, which its documentation gives away.
account=devstoreaccount1
key='Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=='

command=${1:-}
[[ $# -gt 0 ]] && shift
which=${*:-azure gcs}

port=${DRIFTLINE_EMULATORS_PORT:-19200}
root=$DRIFTLINE_CACHE/emulators
azurite=$root/azurite-$azurite_version
gcs=$root/fake-gcs-server-$gcs_version
here=$DRIFTLINE_ROOT/scripts/emulators

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

find_free_port() {
  local candidate
  for _ in {1..100}; do
    candidate=$((20000 + RANDOM % 12000)) # below 32768, where the system takes ports for connections from
    answers "$candidate" || answers $((candidate + 1)) || answers $((candidate + 2)) || { printf '%s' "$candidate" && return; }
  done
  die "no three free ports found"
}

if [[ $port == free ]]; then
  [[ $command == start ]] || die "DRIFTLINE_EMULATORS_PORT=free is for start only; name the port that it printed"
  port=$(find_free_port)
fi
home=$root/set-$port

wanted() { [[ " $which " == *" $1 "* ]]; }

# Half-finished builds are never taken for whole ones.
build() {
  local staging
  mkdir -p "$root"
  # Azurite is run by it too.
  if wanted azure; then use_node 18.0.0; fi
  if wanted azure && [[ ! -d $azurite ]]; then
    staging=$(mktemp -d "$root/staging.XXXXXX")
    say "installing azurite $azurite_version"
    npm install --silent --no-audit --no-fund --no-save --ignore-scripts --prefix "$staging" "azurite@$azurite_version" >&2 ||
      { rm -rf "$staging" && die "npm could not install azurite"; }
    mv -T "$staging" "$azurite" 2>/dev/null || rm -rf "$staging"
  fi
  if wanted gcs && [[ ! -x $gcs ]]; then
    use_go 1.26.0
    staging=$(mktemp -d "$root/staging.XXXXXX")
    say "building fake-gcs-server $gcs_version"
    GOBIN=$staging go install "github.com/fsouza/fake-gcs-server@$gcs_version" >&2 ||
      { rm -rf "$staging" && die "Go could not build fake-gcs-server"; }
    mv -T "$staging/fake-gcs-server" "$gcs"
    rm -rf "$staging"
  fi
}

# live_pid NAME: its pid if it lives; a pid that now belongs to another program does not count.
live_pid() {
  local pid
  pid=$(cat "$home/$1.pid" 2>/dev/null) || return 1
  [[ -n $pid ]] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -e "$(cat "$home/$1.mark")" && printf '%s' "$pid"
}

# launch NAME PORT MARK COMMAND…: in the background, unless it lives; MARK is what tells its command line from others.
launch() {
  local name=$1 at=$2 mark=$3
  shift 3
  printf '%s' "$mark" >"$home/$name.mark"
  live_pid "$name" >/dev/null && return
  answers "$at" && die "port $at is taken by another program; set DRIFTLINE_EMULATORS_PORT"
  setsid nohup "$@" </dev/null >>"$home/$name.log" 2>&1 9>&- &
  printf '%s' "$!" >"$home/$name.pid"
  disown
}

await_port() {
  for _ in {1..600}; do
    answers "$2" && return
    kill -0 "$(cat "$home/$1.pid")" 2>/dev/null || { tail -n 30 "$home/$1.log" >&2 && die "$1 ended while starting"; }
    sleep 0.1
  done
  tail -n 30 "$home/$1.log" >&2
  die "$1 did not answer within a minute"
}

print_env() {
  if wanted azure; then
    cat <<LINES
AZURE_STORAGE_USE_EMULATOR=true
AZURITE_BLOB_STORAGE_URL=http://127.0.0.1:$port
AZURE_STORAGE_ACCOUNT_NAME=$account
AZURE_STORAGE_ACCOUNT_KEY=$key
DRIFTLINE_TEST_AZURE_URL=az://$bucket/contract
LINES
  fi
  if wanted gcs; then
    cat <<LINES
GOOGLE_BASE_URL=http://127.0.0.1:$((port + 1))
GOOGLE_ALLOW_HTTP=true
GOOGLE_SERVICE_ACCOUNT=$home/gcs-key.json
DRIFTLINE_TEST_GCS_URL=gs://$bucket/contract
LINES
  fi
}

start() {
  build
  mkdir -p "$home"
  # Test programs may ask at the same time: the first one starts them, the others find them.
  exec 9>"$home/lock"
  flock -w 60 9 || die "another start has held the lock for a minute"
  if wanted azure; then
    launch azurite "$port" "$home/azurite" node "$azurite/node_modules/azurite/dist/src/blob/main.js" --silent --disableTelemetry \
      --skipApiVersionCheck --blobHost 127.0.0.1 --blobPort "$port" --location "$home/azurite"
    await_port azurite "$port"
    node "$here/azure_container.js" "$port" "$account" "$key" "$bucket" || die "Azurite has no container"
  fi
  if wanted gcs; then
    launch gcs $((port + 2)) "-port $((port + 2))" "$gcs" -scheme http -host 127.0.0.1 -port $((port + 2)) -backend memory \
      -log-level error
    await_port gcs $((port + 2))
    launch gcs-xml $((port + 1)) "$((port + 1)) $((port + 2))" python3 "$here/gcs_xml.py" $((port + 1)) $((port + 2))
    await_port gcs-xml $((port + 1))
    # A key that says to ask for no token. GOOGLE_SKIP_SIGNATURE would say so too, but object_store 0.13 forgets it when it puts.
    printf '{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}\n' >"$home/gcs-key.json"
    curl --silent --show-error --output /dev/null --header 'Content-Type: application/json' --data "{\"name\":\"$bucket\"}" \
      "http://127.0.0.1:$((port + 2))/storage/v1/b?project=driftline" || die "the GCS emulator has no bucket"
  fi
  print_env
}

end() {
  local name pid
  for name in gcs-xml gcs azurite; do
    pid=$(live_pid "$name") || continue
    kill "$pid"
    for _ in {1..50}; do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    rm -f "$home/$name.pid"
    say "stopped $name"
  done
}

case $command in
  start) start ;;
  env) print_env ;;
  stop) end ;;
  wipe) end && rm -rf "$home" ;;
  status) for name in azurite gcs gcs-xml; do live_pid "$name" >/dev/null && printf '%s\n' "$name"; done ;;
  logs) tail -n 100 "$home"/*.log ;;
  build) build ;;
  *) sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
esac
