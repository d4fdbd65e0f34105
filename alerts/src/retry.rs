//! Loops that go on after what passes.
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::{Error, telemetry};

/// The pause after the first failure, and the longest one: each is twice the one before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Runs a loop, and runs it again after a pause as long as what ends it is transient; one that has held for longer than the longest
/// pause begins with the first one again.
///
/// # Errors
/// What ended it for good.
pub(crate) async fn while_transient<F: Future<Output = Result<(), Error>>>(
    shutdown: &CancellationToken,
    mut run: impl FnMut() -> F,
) -> Result<(), Error> {
    let mut pause = PAUSES.0;
    loop {
        let begin = Instant::now();
        match run().await {
            Err(error) if error.is_transient() => {
                if begin.elapsed() > PAUSES.1 {
                    pause = PAUSES.0;
                }
                telemetry::step_failed(&error, pause);
                tokio::select! { () = tokio::time::sleep(pause) => {}, () = shutdown.cancelled() => return Ok(()) }
                pause = (pause * 2).min(PAUSES.1);
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use driftline_store::{FaultPlan, RetryPolicy, Store};

    use super::*;

    #[tokio::test]
    async fn what_passes_is_tried_again_and_what_does_not_ends_it() {
        let policy = RetryPolicy { max_elapsed: Duration::ZERO, ..RetryPolicy::default() };
        let away = Store::in_memory().with_faults(FaultPlan::new(1).down_after(0)).with_retry(policy);
        let (mut runs, shutdown, away) = (0, CancellationToken::new(), &away);
        let ended = while_transient(&shutdown, || {
            runs += 1;
            let is_away = runs < 3;
            async move {
                if is_away {
                    away.get("a").await?;
                }
                Err(Error::Format { path: "p".into(), format: 2, known: 1 })
            }
        })
        .await;
        assert!(matches!(ended, Err(Error::Format { .. })));
        assert_eq!(runs, 3);
    }
}
