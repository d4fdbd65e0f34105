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
# emulator the next one (scripts/fronts/gcs_xml.py says why there is one), and the GCS emulator itself the third.

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
source "$DRIFTLINE_ROOT/scripts/toolchains.sh"
source "$DRIFTLINE_ROOT/scripts/launch.sh"

# The newest that runs on Node 20.
azurite_version=3.35.0
node_needed=18.0.0
gcs_version=v1.56.1
bucket=driftline
# Azurite's account and key, which its documentation gives away.
account=devstoreaccount1
key='Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=='

command=${1:-}
[[ $# -gt 0 ]] && shift
which=${*:-azure gcs}

port=$(first_port DRIFTLINE_EMULATORS_PORT 19200 3)
root=$DRIFTLINE_CACHE/emulators
home=$root/set-$port
azurite=$root/azurite-$azurite_version
gcs=$root/gcs-$gcs_version/fake-gcs-server
# In the order in which they end: the front before what is behind it.
servers=(gcs-xml gcs azurite)

wanted() { [[ " $which " == *" $1 "* ]]; }

build() {
  if wanted azure; then make_once "$azurite" npm_install; fi
  if wanted gcs; then make_once "$(dirname "$gcs")" go_install; fi
}

npm_install() { # npm_install FOLDER
  use_node "$node_needed"
  say "installing azurite $azurite_version"
  npm install --silent --no-audit --no-fund --no-save --ignore-scripts --prefix "$1" "azurite@$azurite_version" >&2 ||
    die "npm could not install azurite"
}

go_install() { # go_install FOLDER
  use_go 1.26.0
  say "building fake-gcs-server $gcs_version"
  GOBIN=$1 go install "github.com/fsouza/fake-gcs-server@$gcs_version" >&2 || die "Go could not build fake-gcs-server"
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
  lock_home
  if wanted azure; then
    use_node "$node_needed"
    launch azurite "$port" "$home/azurite" node "$azurite/node_modules/azurite/dist/src/blob/main.js" --silent --disableTelemetry \
      --skipApiVersionCheck --blobHost 127.0.0.1 --blobPort "$port" --location "$home/azurite"
    await azurite 60 answers "$port"
    node "$DRIFTLINE_ROOT/scripts/emulators/azure_container.js" "$port" "$account" "$key" "$bucket" || die "Azurite has no container"
  fi
  if wanted gcs; then
    launch gcs $((port + 2)) "-port $((port + 2))" "$gcs" -scheme http -host 127.0.0.1 -port $((port + 2)) -backend memory \
      -log-level error
    await gcs 60 answers $((port + 2))
    launch gcs-xml $((port + 1)) "gcs_xml.py $((port + 1)) " python3 "$DRIFTLINE_ROOT/scripts/fronts/gcs_xml.py" $((port + 1)) $((port + 2))
    await gcs-xml 60 answers $((port + 1))
    # A key that says to ask for no token. GOOGLE_SKIP_SIGNATURE would say so too, but object_store 0.13 forgets it when it puts.
    printf '{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}\n' >"$home/gcs-key.json"
    curl --silent --show-error --output /dev/null --header 'Content-Type: application/json' --data "{\"name\":\"$bucket\"}" \
      "http://127.0.0.1:$((port + 2))/storage/v1/b?project=driftline" || die "the GCS emulator has no bucket"
  fi
  print_env
}

case $command in
  start) start ;;
  env) print_env ;;
  stop) end TERM "${servers[@]}" ;;
  wipe) wipe "${servers[@]}" ;;
  status) for name in azurite gcs gcs-xml; do live_pid "$name" >/dev/null && printf '%s\n' "$name"; done ;;
  logs) tail -n 100 "$home"/*.log ;;
  build) build ;;
  *) usage ;;
esac
