#!/usr/bin/env bash
# A real S3 server on this machine: versitygw over a folder, built once by Go from its module's source.
#
#   scripts/s3.sh start       starts it, waits until it answers, prints NAME=VALUE lines to export: where it is, and the keys
#   scripts/s3.sh env         the same lines for one that runs
#   scripts/s3.sh stop | kill a clean shutdown, or SIGKILL; the objects stay
#   scripts/s3.sh wipe        kills it and removes its objects
#   scripts/s3.sh status | logs | build
#
# DRIFTLINE_S3_PORT (19100; `free` finds one at start) tells servers apart. Four ways lead to one bucket, `driftline`:
#   http://127.0.0.1:PORT                      path-style
#   http://driftline.s3.localhost:PORT         virtual-host style, with http://127.0.0.1:PORT as the client's proxy where
#                                              the machine does not resolve names below localhost
#   https://localhost:PORT+1                   TLS under a private authority, whose certificate is DRIFTLINE_TEST_S3_CA
# The two ports are two processes over one folder, so they are also two gateways that share a store.
#   http://127.0.0.1:PORT+2                    the first one, with listings as AWS makes them: scripts/fronts/s3_listings.py says why

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
source "$DRIFTLINE_ROOT/scripts/toolchains.sh"
source "$DRIFTLINE_ROOT/scripts/launch.sh"

# Before 1.8.0 its conditional writes raced: several writers were told that they had won.
version=v1.8.0
bucket=driftline
domain=s3.localhost
access_key=driftline
secret_key=driftline-secret

command=${1:-}
[[ $# -gt 0 ]] && shift

port=$(first_port DRIFTLINE_S3_PORT 19100 3)
root=$DRIFTLINE_CACHE/s3
binary=$root/build-$version/versitygw
home=$root/server-$port
servers=(http https listings)

build() { make_once "$(dirname "$binary")" go_install; }
go_install() { # go_install FOLDER
  use_go 1.25.0
  say "building versitygw $version"
  GOBIN=$1 go install "github.com/versity/versitygw/cmd/versitygw@$version" >&2 || die "Go could not build versitygw"
}

# An authority of our own, and a certificate for localhost that it signs; both are made anew with each server's data.
make_certificates() {
  [[ -f $home/tls/server.pem ]] && return
  have openssl || die "openssl is missing"
  mkdir -p "$home/tls"
  (
    cd "$home/tls"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -keyout ca.key -out ca.pem \
      -subj "/CN=Driftline's test authority" -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.csr -subj "/CN=localhost"
    printf 'subjectAltName=DNS:localhost,DNS:*.%s,IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n' "$domain" >server.ext
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile server.ext -out server.made
    mv server.made server.pem
  ) >"$home/tls/openssl.out" 2>&1 || { cat "$home/tls/openssl.out" >&2 && die "openssl could not make the certificates"; }
}

gateway() { # gateway NAME PORT OPTION…: one over the folder
  local name=$1 at=$2
  shift 2
  launch "$name" "$at" "--port 127.0.0.1:$at " "$binary" --port "127.0.0.1:$at" --region us-east-1 --health /health --virtual-domain "$domain" \
    --quiet "$@" posix "${metadata[@]}" "$home/data"
}

is_healthy() { curl --silent --fail --max-time 2 --cacert "$home/tls/ca.pem" --output /dev/null "$1/health"; }

# ETags are kept in extended attributes; a file system without them needs a folder beside.
metadata=()
find_metadata() {
  mkdir -p "$home/data" "$home/sidecar"
  if python3 -c 'import os, sys; os.setxattr(sys.argv[1], "user.driftline", b"1"); os.removexattr(sys.argv[1], "user.driftline")' \
    "$home/data" 2>/dev/null; then
    metadata=()
  else
    metadata=(--sidecar "$home/sidecar")
  fi
}

create_bucket() {
  [[ -d $home/data/$bucket ]] && return
  curl --silent --show-error --fail --aws-sigv4 aws:amz:us-east-1:s3 --user "$access_key:$secret_key" \
    --header "x-amz-content-sha256: UNSIGNED-PAYLOAD" --request PUT "http://127.0.0.1:$port/$bucket" >&2 || die "the bucket could not be created"
}

print_env() {
  cat <<LINES
AWS_ENDPOINT_URL=http://127.0.0.1:$port
AWS_ALLOW_HTTP=true
AWS_REGION=us-east-1
AWS_ACCESS_KEY_ID=$access_key
AWS_SECRET_ACCESS_KEY=$secret_key
DRIFTLINE_TEST_S3_URL=s3://$bucket/contract
DRIFTLINE_TEST_S3_VIRTUAL_HOST=http://$bucket.$domain:$port
DRIFTLINE_TEST_S3_TLS=https://localhost:$((port + 1))
DRIFTLINE_TEST_S3_CA=$home/tls/ca.pem
DRIFTLINE_TEST_S3_LISTINGS=http://127.0.0.1:$((port + 2))
LINES
}

start() {
  have curl || die "curl is missing"
  build
  lock_home
  make_certificates
  find_metadata
  export ROOT_ACCESS_KEY=$access_key ROOT_SECRET_KEY=$secret_key
  gateway http "$port"
  gateway https $((port + 1)) --cert "$home/tls/server.pem" --key "$home/tls/server.key"
  launch listings $((port + 2)) "s3_listings.py $((port + 2)) " python3 "$DRIFTLINE_ROOT/scripts/fronts/s3_listings.py" $((port + 2)) "$port"
  await http 60 is_healthy "http://127.0.0.1:$port"
  await https 60 is_healthy "https://localhost:$((port + 1))"
  await listings 60 is_healthy "http://127.0.0.1:$((port + 2))"
  create_bucket
  print_env
}

case $command in
  start) start ;;
  env) live_pid http >/dev/null || die "no server runs on port $port: scripts/s3.sh start"; print_env ;;
  stop) end TERM "${servers[@]}" ;;
  kill) end KILL "${servers[@]}" ;;
  wipe) wipe "${servers[@]}" ;;
  status) if are_live "${servers[@]}"; then printf 'endpoint=http://127.0.0.1:%s\n' "$port"; else say "not running" && exit 1; fi ;;
  logs) tail -n 100 "$home"/*.log ;;
  build) build ;;
  *) usage ;;
esac
