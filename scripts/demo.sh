#!/usr/bin/env bash
# Builds Driftline and runs its demo: an embedded broker, a local store, a real labelled data set, the windows' metrics.
# Arguments go to `driftline demo`, for instance: scripts/demo.sh --keep

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$DRIFTLINE_ROOT"

scripts/setup.sh
cargo build --locked --package driftline --bin driftline
exec "$CARGO_TARGET_DIR/debug/driftline" demo "$@"
