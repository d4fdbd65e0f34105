#!/usr/bin/env bash
# A real Apache Kafka broker on this machine: one KRaft node, run from Maven jars on Java 17 or newer.
#
#   scripts/kafka.sh start                    starts it, waits until it answers, prints brokers=localhost:PORT
#   scripts/kafka.sh topics NAME[:N] …        creates topics of N partitions (4); without names, lists what is there
#   scripts/kafka.sh status | logs            is it up; its log so far
#   scripts/kafka.sh stop | kill              a clean shutdown, or SIGKILL; the data stays
#   scripts/kafka.sh wipe                     kills it and removes its data
#   scripts/kafka.sh run CLASS ARGUMENT…      any of Kafka's tools, as org.apache.kafka.tools.GetOffsetShell
#
# DRIFTLINE_KAFKA_PORT (19092; the controller takes the next one; `free` finds some at start) tells brokers apart,
# DRIFTLINE_KAFKA_HEAP is the broker's heap (384m).
#
# DRIFTLINE_KAFKA_SECURE=1 at the first start adds listeners, certificates and an authorizer; start then prints more lines:
#   sasl_ssl=localhost:PORT     TLS, and SCRAM-SHA-256 or -512: driftline may all, limited and forgetful nothing; the password is
#                               the name and `-secret`
#   ssl=localhost:PORT          TLS; who comes without a certificate is ANONYMOUS, who may all, as on the plain port
#   mutual=localhost:PORT       TLS with a client's certificate
#   certificates=FOLDER         ca.pem; client.pem, client.key (CN=driftline: may all); stranger.pem, a CA that signed nothing here

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
source "$DRIFTLINE_ROOT/scripts/launch.sh"

command=${1:-}
[[ $# -gt 0 ]] && shift

# The plain port, and what is counted from it: the controller, SASL_SSL, TLS, TLS on both sides.
port=$(first_port DRIFTLINE_KAFKA_PORT 19092 5)
heap=${DRIFTLINE_KAFKA_HEAP:-384m}
pom=$DRIFTLINE_ROOT/scripts/kafka/pom.xml
libs=$DRIFTLINE_CACHE/kafka/libs-$(cksum <"$pom" | cut -d ' ' -f 1)
home=$DRIFTLINE_CACHE/kafka/broker-$port
certificates=$home/certificates
# What a broker was first started as, it stays until it is wiped.
is_secure() { [[ -d $certificates || (${DRIFTLINE_KAFKA_SECURE:-0} == 1 && ! -d $home/data) ]]; }

fetch_jars() { # fetch_jars FOLDER
  have mvn || die "Maven is missing: scripts/setup.sh --tests installs it"
  say "fetching Kafka's jars"
  mvn --batch-mode --quiet --file "$pom" dependency:copy-dependencies "-DoutputDirectory=$1" >&2 || die "Maven could not fetch Kafka's jars"
}

# java_with OPTION… CLASS ARGUMENT…
java_with() { java -cp "$libs/*" "-Dlog4j2.configurationFile=$DRIFTLINE_ROOT/scripts/kafka/log4j2.properties" "$@"; }
tool() { java_with -Xmx128m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC "$@"; }

write_properties() {
  cat >"$home/server.properties" <<PROPERTIES
node.id=1
process.roles=broker,controller
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$home/data
auto.create.topics.enable=false
num.partitions=4
# Replays carry old timestamps: time must not delete them.
log.retention.ms=-1
# Records above 1 MiB must reach the collector, which rejects them by name.
message.max.bytes=8388608
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
# A killed broker is let in again after this long.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# The default of 128 MB would be a third of the heap.
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=2
background.threads=2
PROPERTIES
}

# A CA of our own, what it signs, and a CA that signs nothing.
make_certificates() {
  [[ ! -d $certificates ]] || return 0
  have openssl || die "openssl is missing: apt-get install openssl"
  local staging=$certificates.new
  rm -rf "$staging" && mkdir -p "$staging"
  (
    cd "$staging"
    exec 2>openssl.log
    authority() { openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=$2" -keyout "$1.key" -out "$1.pem"; }
    sign() { # sign NAME SUBJECT EXTENSIONS
      openssl req -newkey rsa:2048 -nodes -subj "$2" -keyout "$1.key" -out "$1.csr" &&
        openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile <(printf '%s' "$3") -out "$1.pem"
    }
    authority ca "Driftline test CA" && authority stranger "a stranger" &&
      sign server "/CN=localhost" "subjectAltName=DNS:localhost,IP:127.0.0.1" &&
      sign client "/CN=driftline" "extendedKeyUsage=clientAuth" &&
      cat server.key server.pem >server.chain.pem
  ) || { cat "$staging/openssl.log" >&2 && die "openssl could not make the certificates"; }
  mv "$staging" "$certificates"
}

# Takes the place of the plain listeners; Kafka reads the last of two lines with one key.
write_secure_properties() {
  cat >>"$home/server.properties" <<PROPERTIES
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1)),SASL_SSL://127.0.0.1:$((port + 2)),SSL://127.0.0.1:$((port + 3)),MUTUAL://127.0.0.1:$((port + 4))
advertised.listeners=PLAINTEXT://127.0.0.1:$port,SASL_SSL://localhost:$((port + 2)),SSL://localhost:$((port + 3)),MUTUAL://localhost:$((port + 4))
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,MUTUAL:SSL
ssl.keystore.type=PEM
ssl.keystore.location=$certificates/server.chain.pem
ssl.truststore.type=PEM
ssl.truststore.location=$certificates/ca.pem
listener.name.mutual.ssl.client.auth=required
sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:ANONYMOUS;User:driftline;User:CN=driftline
# A password that is wrong is said at once: tests wait for it.
connection.failed.authentication.delay.ms=20
PROPERTIES
}

scram_users() {
  local user
  for user in driftline limited forgetful; do
    printf -- '--add-scram\nSCRAM-SHA-256=[name=%s,password=%s-secret]\n' "$user" "$user"
    printf -- '--add-scram\nSCRAM-SHA-512=[name=%s,password=%s-secret]\n' "$user" "$user"
  done
}

say_where() {
  printf 'brokers=localhost:%s\n' "$port"
  ! is_secure || printf 'sasl_ssl=localhost:%s\nssl=localhost:%s\nmutual=localhost:%s\ncertificates=%s\n' \
    $((port + 2)) $((port + 3)) $((port + 4)) "$certificates"
}

start() {
  have_java || die "Java 17 or newer is missing: scripts/setup.sh --tests installs it"
  make_once "$libs" fetch_jars
  lock_home
  if ! live_pid broker >/dev/null; then
    local offset users=()
    for offset in 0 1; do
      ! answers $((port + offset)) || die "port $((port + offset)) is taken by another program; set DRIFTLINE_KAFKA_PORT"
    done
    write_properties
    if is_secure; then
      make_certificates
      write_secure_properties
      mapfile -t users < <(scram_users)
    fi
    if [[ ! -f $home/data/meta.properties ]]; then
      local cluster
      cluster=$(tool kafka.tools.StorageTool random-uuid 9>&-)
      tool kafka.tools.StorageTool format --config "$home/server.properties" --cluster-id "$cluster" "${users[@]}" >"$home/format.out" 2>&1 9>&- ||
        { cat "$home/format.out" >&2 && die "could not format Kafka's storage"; }
    fi
    launch broker "$port" "$home/server.properties" java -cp "$libs/*" "-Xmx$heap" "-Xms$heap" -XX:+UseSerialGC -XX:+ExitOnOutOfMemoryError \
      "-Dlog4j2.configurationFile=$DRIFTLINE_ROOT/scripts/kafka/log4j2.properties" \
      -Ddriftline.log.level=INFO -Ddriftline.log.target=SYSTEM_OUT \
      kafka.Kafka "$home/server.properties"
  fi
  await broker 60 is_ready
  say_where
}

# The line comes when the broker is registered, unfenced and serves requests; an open port alone comes too early.
is_ready() { grep -q 'Kafka Server started' "$home/broker.log" && answers "$port"; }

create_topics() {
  local spec
  for spec in "$@"; do
    tool org.apache.kafka.tools.TopicCommand --bootstrap-server "localhost:$port" --create --if-not-exists \
      --topic "${spec%%:*}" --partitions "$([[ $spec == *:* ]] && printf '%s' "${spec##*:}" || printf 4)" --replication-factor 1
  done
  [[ $# -gt 0 ]] || tool org.apache.kafka.tools.TopicCommand --bootstrap-server "localhost:$port" --list
}

need_running() { live_pid broker >/dev/null || die "no broker runs on port $port: scripts/kafka.sh start"; }

case $command in
  start) start ;;
  stop) end TERM broker ;;
  kill) end KILL broker ;;
  wipe) wipe broker ;;
  status) if are_live broker; then say_where; else say "not running" && exit 1; fi ;;
  topics) need_running && create_topics "$@" ;;
  logs) cat "$home/broker.log" ;;
  run)
    make_once "$libs" fetch_jars
    tool "$@"
    ;;
  *) usage ;;
esac
