#!/usr/bin/env bash
# Holds Cargo.lock to one copy of each crate whose types cross our seams: two Arrows would compile, and not fit each other.

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
lock=${1:-$DRIFTLINE_ROOT/Cargo.lock}

failed=0
for crate in arrow arrow-array arrow-schema parquet object_store datafusion rdkafka; do
  versions=$(awk -v crate="$crate" -F '"' '/^name = / { name = $2 } /^version = / && name == crate { printf "%s ", $2 }' "$lock")
  case $(wc -w <<<"$versions") in
    1) ;;
    0) say "$crate is not in the lock file" && failed=1 ;;
    *) say "$crate is there more than once: $versions" && failed=1 ;;
  esac
done
exit "$failed"
