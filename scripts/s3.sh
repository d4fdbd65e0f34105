#!/usr/bin/env bash
# A real S3 server on this machine: versitygw over a folder, built once by Go from its module's source.
#
#   scripts/s3.sh start       starts it, waits until it answers, prints NAME=VALUE lines to export: where it is, and the keys
#   scripts/s3.sh env         the same lines for one that runs
#   scripts/s3.sh stop | kill a clean shutdown, or SIGKILL; the objects stay
#   scripts/s3.sh wipe        kills it and removes its objects
#   scripts/s3.sh status | logs | build
#
# DRIFTLINE_S3_PORT (19100; `free` finds one at start) tells servers apart. Three ways lead to one bucket, `driftline`:
#   http://127.0.0.1:PORT                      path-style
#   http://driftline.s3.localhost:PORT         virtual-host style, with http://127.0.0.1:PORT as the client's proxy where
#                                              the machine does not resolve names below localhost
#   https://localhost:PORT+1                   TLS under a private authority, whose certificate is DRIFTLINE_TEST_S3_CA
# The two ports are two processes over one folder, so they are also two gateways that share a store.

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
source "$DRIFTLINE_ROOT/scripts/toolchains.sh"

# Before 1.8.0 its conditional writes raced: several writers were told that they had won.
version=v1.8.0
bucket=driftline
domain=s3.localhost
access_key=driftline
secret_key=driftline-secret

command=${1:-}
[[ $# -gt 0 ]] && shift

port=${DRIFTLINE_S3_PORT:-19100}
root=$DRIFTLINE_CACHE/s3
binary=$root/versitygw-$version

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

find_free_port() {
  local candidate
  for _ in {1..100}; do
    candidate=$((20000 + RANDOM % 12000)) # below 32768, where the system takes ports for connections from
    answers "$candidate" || answers $((candidate + 1)) || { printf '%s' "$candidate" && return; }
  done
  die "no free pair of ports found"
}

if [[ $port == free ]]; then
  [[ $command == start ]] || die "DRIFTLINE_S3_PORT=free is for start only; name the port that it printed"
  port=$(find_free_port)
fi
home=$root/server-$port

# A half-finished build is never taken for a whole one.
build() {
  [[ -x $binary ]] && return
  use_go 1.25.0
  mkdir -p "$root"
  local staging
  staging=$(mktemp -d "$root/staging.XXXXXX")
  say "building versitygw $version"
  GOBIN=$staging go install "github.com/versity/versitygw/cmd/versitygw@$version" >&2 ||
    { rm -rf "$staging" && die "Go could not build versitygw"; }
  mv -T "$staging/versitygw" "$binary"
  rm -rf "$staging"
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
  ) >"$home/tls.log" 2>&1 || { cat "$home/tls.log" >&2 && die "openssl could not make the certificates"; }
}

# live_pid NAME: the pid of that gateway, if it lives; a pid that now belongs to another program does not count.
live_pid() {
  local pid
  pid=$(cat "$home/$1.pid" 2>/dev/null) || return 1
  [[ -n $pid ]] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$home/data" && printf '%s' "$pid"
}

# launch NAME PORT OPTION…: one gateway over the folder.
launch() {
  local name=$1 at=$2
  shift 2
  live_pid "$name" >/dev/null && return
  answers "$at" && die "port $at is taken by another program; set DRIFTLINE_S3_PORT"
  ROOT_ACCESS_KEY=$access_key ROOT_SECRET_KEY=$secret_key setsid nohup "$binary" --port "127.0.0.1:$at" --region us-east-1 \
    --health /health --virtual-domain "$domain" --quiet "$@" posix "${metadata[@]}" "$home/data" </dev/null >>"$home/log" 2>&1 9>&- &
  printf '%s' "$!" >"$home/$name.pid"
  disown
}

await_ready() {
  local name=$1 url=$2
  for _ in {1..300}; do
    curl --silent --fail --max-time 2 --cacert "$home/tls/ca.pem" --output /dev/null "$url/health" && return
    kill -0 "$(cat "$home/$name.pid")" 2>/dev/null || { tail -n 30 "$home/log" >&2 && die "versitygw ended while starting"; }
    sleep 0.1
  done
  tail -n 30 "$home/log" >&2
  die "versitygw did not answer within 30 seconds"
}

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
LINES
}

start() {
  have curl || die "curl is missing"
  # In a process of its own: its path is not ours.
  (build)
  mkdir -p "$home"
  # Test programs may ask for the server at the same time: the first one starts it, the others find it.
  exec 9>"$home/lock"
  flock -w 60 9 || die "another start has held the lock for a minute"
  make_certificates
  find_metadata
  launch http "$port"
  launch https $((port + 1)) --cert "$home/tls/server.pem" --key "$home/tls/server.key"
  await_ready http "http://127.0.0.1:$port"
  await_ready https "https://localhost:$((port + 1))"
  create_bucket
  print_env
}

end() { # end SIGNAL
  local name pid ended=no
  for name in http https; do
    pid=$(live_pid "$name") || continue
    kill "-$1" "$pid"
    for _ in {1..100}; do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    ended=yes
  done
  rm -f "$home/http.pid" "$home/https.pid"
  if [[ $ended == yes ]]; then say "stopped"; else say "not running"; fi
}

case $command in
  start) start ;;
  env) live_pid http >/dev/null || die "no server runs on port $port: scripts/s3.sh start"; print_env ;;
  stop) end TERM ;;
  kill) end KILL ;;
  wipe) end KILL && rm -rf "$home" ;;
  status) if live_pid http >/dev/null; then printf 'endpoint=http://127.0.0.1:%s\n' "$port"; else say "not running" && exit 1; fi ;;
  logs) cat "$home/log" ;;
  build) (build) ;;
  *) sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
esac
