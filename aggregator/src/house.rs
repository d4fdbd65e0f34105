//! Looks after the house beside the judging: deletes what is old, and finishes what another process was asked to forget.
use std::convert::Infallible;
use std::time::{Duration, Instant};

use driftline_ledger::{LedgerState, Replica};
use driftline_schemas::clock::{self, MINUTE, Micros};
use tokio::sync::watch;

use crate::error::Error;
use crate::stage::{Parts, ROLE};
use crate::{forget, retain, telemetry};

/// How often the loop tells how far it has come.
pub(crate) const TELL_EVERY: Duration = Duration::from_secs(60);
/// How often retention is kept: more often lists folders for nothing, more seldom keeps objects longer than was said.
const RETAIN_EVERY: Duration = Duration::from_secs(600);
/// A request to forget that is open for so long has been left by the command that made it.
const LEFT_AFTER: Micros = 10 * MINUTE;

/// Goes on as long as it is polled.
pub(crate) async fn keep(parts: &Parts, mut told: watch::Receiver<Option<LedgerState>>) -> Infallible {
    let mut retained_at: Option<Instant> = None;
    loop {
        if told.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let Some(state) = told.borrow_and_update().clone() else { continue };
        if !parts.members.is_mine(ROLE, "house") {
            continue;
        }
        let is_left = models_left(&state, clock::now_micros()).next().is_some();
        if !is_left && retained_at.is_some_and(|at| at.elapsed() < RETAIN_EVERY) {
            continue;
        }
        retained_at = Some(Instant::now());
        if let Err(error) = once(parts, state).await {
            telemetry::house_failed(&error);
        }
    }
}

/// Does what there is to do.
pub(crate) async fn once(parts: &Parts, state: LedgerState) -> Result<(), Error> {
    let now = clock::now_micros();
    let left: Vec<String> = models_left(&state, now).map(str::to_owned).collect();
    let mut replica = Replica::at(&parts.store, parts.members.me(), state);
    for model in left {
        forget::carry_out(&parts.store, &mut replica, &model).await?;
    }
    retain::pass(&parts.store, &mut replica, &parts.retention, now).await?;
    Ok(())
}

/// Models of which something is to be forgotten, and nobody is at it.
fn models_left(state: &LedgerState, now: Micros) -> impl Iterator<Item = &str> {
    let open = state.forgotten.iter().filter(move |(_, f)| f.is_open() && now >= f.asked_at.saturating_add(LEFT_AFTER));
    open.map(|(model, _)| model.as_str())
}
