#!/usr/bin/env bash
# The one command that checks everything. Installs what is missing, builds, runs every check, goes on after a failure, sums up.
# The last line is `N passed, M failed`: cargo's tests, and each other check as one.
#
#   DRIFTLINE_REQUIRE_ALL=1    a missing Java, Maven, Python, Chromium or Alertmanager is a failure, not a skip
#   DRIFTLINE_TEST_BROKERS=…   use this Kafka instead of starting one
#   DRIFTLINE_KAFKA_PORT=…     the port of the one that is started (default: any free one)

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$DRIFTLINE_ROOT"

passed=0
failed=0
summary=()

# check NAME COMMAND…: runs it, shows what it says, remembers how it ended: 77 says that it could not be done here, and why.
check() {
  local name=$1 started=$SECONDS result=ok code=0
  shift
  say "=== $name"
  "$@" </dev/null || code=$?
  case $code in
    0) passed=$((passed + 1)) ;;
    77) result=SKIPPED ;;
    *)
      result=FAILED
      failed=$((failed + 1))
      ;;
  esac
  summary+=("$(printf '%-32s %-8s %4ds' "$name" "$result" $((SECONDS - started)))")
}

# skip NAME REASON: loud, and a failure where nothing may be skipped.
skip() {
  local result=SKIPPED
  say "=== $1: SKIPPED: $2"
  if require_all; then
    result=FAILED
    failed=$((failed + 1))
  fi
  summary+=("$(printf '%-32s %-8s %s' "$1" "$result" "$2")")
}

binary=$CARGO_TARGET_DIR/debug/driftline
scratch=$(mktemp -d)
own_broker=
own_s3=
own_emulators=
finish() {
  [[ -z $own_emulators ]] || DRIFTLINE_EMULATORS_PORT=$own_emulators scripts/emulators.sh wipe || true
  [[ -z $own_s3 ]] || DRIFTLINE_S3_PORT=$own_s3 scripts/s3.sh wipe || true
  [[ -z $own_broker ]] || DRIFTLINE_KAFKA_PORT=$own_broker scripts/kafka.sh wipe || true
  rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT TERM

start_kafka() {
  [[ -z ${DRIFTLINE_TEST_BROKERS:-} ]] || return 0
  local lines
  # With TLS, SCRAM and an authorizer too: the tests of rights and secrets use the same broker.
  lines=$(DRIFTLINE_KAFKA_SECURE=1 DRIFTLINE_KAFKA_PORT=${DRIFTLINE_KAFKA_PORT:-free} scripts/kafka.sh start) || return 1
  DRIFTLINE_TEST_BROKERS=$(sed -n 's/^brokers=//p' <<<"$lines")
  own_broker=${DRIFTLINE_TEST_BROKERS##*:}
  export DRIFTLINE_TEST_BROKERS DRIFTLINE_TEST_SECURE_PORT=$own_broker
}

# Exports the NAME=VALUE lines that a script prints.
export_lines() {
  local line
  while IFS= read -r line; do
    export "${line?}"
  done <<<"$1"
}

start_s3() {
  [[ -z ${DRIFTLINE_TEST_S3_URL:-} ]] || return 0
  local lines
  lines=$(DRIFTLINE_S3_PORT=${DRIFTLINE_S3_PORT:-free} scripts/s3.sh start) || return 1
  export_lines "$lines"
  own_s3=${AWS_ENDPOINT_URL##*:}
}

start_emulators() {
  [[ -z ${DRIFTLINE_TEST_AZURE_URL:-} || -z ${DRIFTLINE_TEST_GCS_URL:-} ]] || return 0
  local lines
  lines=$(DRIFTLINE_EMULATORS_PORT=${DRIFTLINE_EMULATORS_PORT:-free} scripts/emulators.sh start) || return 1
  export_lines "$lines"
  own_emulators=${AZURITE_BLOB_STORAGE_URL##*:}
}

run_cargo_tests() {
  local result=0
  cargo test --locked --workspace --no-fail-fast 2>&1 | tee "$scratch/tests.log" || result=1
  local line
  line=$(awk '/^test result:/ { for (i = 2; i <= NF; i++) { if ($i == "passed;") p += $(i - 1); if ($i == "failed;") f += $(i - 1) } }
              END { print p + 0, f + 0 }' "$scratch/tests.log")
  # A run without a single test is no success.
  [[ $line != "0 0" ]] || result=1
  # The tests count one by one; the step itself is counted by `check`, so it is taken off again.
  passed=$((passed + ${line% *}))
  failed=$((failed + ${line#* }))
  if [[ $result -eq 0 ]]; then passed=$((passed - 1)); elif [[ ${line#* } -gt 0 ]]; then failed=$((failed - 1)); fi
  return "$result"
}

run_demo() {
  "$binary" demo --dir "$scratch/demo" --store "$scratch/store" >"$scratch/demo.log" 2>"$scratch/demo.err" ||
    { cat "$scratch/demo.log" "$scratch/demo.err" && return 1; }
  tail -n 30 "$scratch/demo.log"
}

run_audit() {
  "$binary" --store "$scratch/store" audit --format json >"$scratch/audit.json" &&
    "$python" scripts/audit_duckdb.py --store "$scratch/store" --audit "$scratch/audit.json" --config "$scratch/demo/driftline.toml"
}

check "set-up" scripts/setup.sh --tests
check "one copy of each seam crate" scripts/check_lock.sh
check "formatting" cargo fmt --all --check
check "lints" cargo clippy --locked --workspace --all-targets -- -D warnings
# With all targets, as the tests are built: other features of dependencies would build half of them twice.
check "build" cargo build --locked --workspace --all-targets

python=
if have_venv; then
  check "Python environment" scripts/python.sh
  python=$(scripts/python.sh 2>/dev/null) || python=
else
  skip "Python environment" "python3 with venv is missing"
fi
# The integration tests ask outside engines through this interpreter.
if [[ -n $python ]]; then
  export DRIFTLINE_TEST_PYTHON=$python
  check "licences" "$python" scripts/check_licences.py
  check "scripts' own tests" "$python" -m unittest discover --start-directory scripts --pattern 'test_*.py'
else
  skip "licences" "no Python"
fi

if have_java && have mvn || [[ -n ${DRIFTLINE_TEST_BROKERS:-} ]]; then
  check "real Kafka" start_kafka
else
  skip "real Kafka" "Java 17 or Maven is missing"
fi

if [[ -n $python ]]; then
  check "S3 server" start_s3
  check "Azure and GCS emulators" start_emulators
else
  skip "S3 server, Azure and GCS emulators" "no Python, which fetches Go and Node where they are missing"
fi

if [[ -n $python ]] && have_jdk && have mvn; then
  check "example producers" scripts/producers.sh build
  check "Spark" scripts/spark.sh
  DRIFTLINE_TEST_SPARK=$(scripts/spark.sh 2>/dev/null) && export DRIFTLINE_TEST_SPARK
else
  skip "example producers, Spark" "a JDK, Maven or Python is missing"
fi

# It runs in a mount namespace of its own, which not every machine lets a user have.
DRIFTLINE_TEST_ALERTMANAGER=$(scripts/prometheus.sh alertmanager) || DRIFTLINE_TEST_ALERTMANAGER=
if [[ -n $DRIFTLINE_TEST_ALERTMANAGER ]] && "$DRIFTLINE_TEST_ALERTMANAGER" --version >/dev/null 2>&1; then
  export DRIFTLINE_TEST_ALERTMANAGER
else
  unset DRIFTLINE_TEST_ALERTMANAGER
  skip "Alertmanager" "it cannot be fetched, or not be started in a namespace of its own"
fi

# Two pages of reports, which a browser looks at afterwards.
export DRIFTLINE_TEST_PAGES=$scratch/pages
mkdir "$DRIFTLINE_TEST_PAGES"
check "cargo test" run_cargo_tests

check "demo" run_demo
if [[ -n $python ]]; then
  # It says itself whether there is no browser, and whether that is a failure.
  check "reports in Chromium" "$python" scripts/check_pages.py --binary "$binary" --store "$scratch/store" "$DRIFTLINE_TEST_PAGES"/{large,small}.html
  check "audit by DuckDB" run_audit
  check "metrics by scikit-learn" "$python" scripts/compare_sklearn.py "$scratch/store" --all --quiet --config "$scratch/demo/driftline.toml"
  check "deployment files" "$python" scripts/check_deploy.py
else
  skip "reports in Chromium, outside audit, metrics, deployment" "no Python"
fi

if [[ -n $python && -n ${DRIFTLINE_TEST_BROKERS:-} ]]; then
  # Both say themselves what they lack, and whether that is a failure.
  check "dashboards by Prometheus" "$python" scripts/check_dashboards.py --binary "$binary" --brokers "$DRIFTLINE_TEST_BROKERS"
  check "image's steps" "$python" scripts/check_image.py --binary "$binary" --brokers "$DRIFTLINE_TEST_BROKERS"
else
  skip "dashboards, image's steps" "no Kafka, or no Python"
fi

printf '\n'
printf '%s\n' "${summary[@]}"
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[[ $failed -eq 0 ]]
