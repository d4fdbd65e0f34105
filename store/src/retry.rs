//! Asking again, within bounds, and saying so once.
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    Error, Operation,
    error::{is_full, is_transient},
};

/// How long and how often a request is repeated when the store is unreachable, overloaded or slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// After this the error is handed up. Shorter: a hiccup of the store becomes the caller's problem.
    /// Longer: a caller that could do something else waits in vain.
    pub max_elapsed: Duration,
    /// The longest first pause; each further one may be twice as long.
    pub base: Duration,
    /// No pause is longer.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_elapsed: Duration::from_secs(120), base: Duration::from_millis(100), cap: Duration::from_secs(5) }
    }
}

impl RetryPolicy {
    /// Never asks twice.
    pub fn never() -> Self {
        Self { max_elapsed: Duration::ZERO, base: Duration::ZERO, cap: Duration::ZERO }
    }

    /// The pause before try `tries + 1`, of which `share` in `[0, 1]` is chance, so that a crowd does not return at once.
    fn pause(&self, tries: u32, share: f64) -> Duration {
        let longest = self.base.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(self.cap);
        longest / 2 + (longest / 2).mul_f64(share)
    }
}

/// One request's tries so far.
pub(crate) struct Retry<'a> {
    policy: RetryPolicy,
    operation: Operation,
    path: &'a str,
    started: Instant,
    tries: u32,
}

impl<'a> Retry<'a> {
    pub(crate) fn new(policy: RetryPolicy, operation: Operation, path: &'a str) -> Self {
        Self { policy, operation, path, started: Instant::now(), tries: 0 }
    }

    /// Waits until it is time to ask again.
    ///
    /// # Errors
    /// If asking again would not help, or the time is up.
    pub(crate) async fn pause(&mut self, error: &object_store::Error) -> Result<(), Error> {
        self.tries += 1;
        let pause = self.policy.pause(self.tries, rand::random());
        let elapsed = self.started.elapsed();
        if !is_transient(error) || elapsed + pause >= self.policy.max_elapsed {
            return Err(self.last(error));
        }
        let (operation, path) = (self.operation, self.path);
        if self.tries == 1 && is_full(error) {
            tracing::warn!(%operation, path, %error, "the store's disk is full, trying again until somebody has made room");
        } else if self.tries == 1 {
            tracing::warn!(%operation, path, %error, "the store did not answer, trying again");
        } else {
            tracing::debug!(%operation, path, tries = self.tries, %error, "the store still does not answer");
        }
        sleep(pause).await;
        Ok(())
    }

    /// The error to hand up instead of asking again.
    pub(crate) fn last(&self, error: &object_store::Error) -> Error {
        Error::last(error, self.operation, self.path, self.tries.max(1), self.started.elapsed())
    }

    /// Says that the store is back, if it was away.
    pub(crate) fn done(&self) {
        if self.tries > 0 {
            let (operation, path, tries) = (self.operation, self.path, self.tries + 1);
            let after_secs = self.started.elapsed().as_secs_f64();
            tracing::info!(%operation, path, tries, after_secs, "the store answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable() -> object_store::Error {
        let source = std::io::Error::from(std::io::ErrorKind::TimedOut).into();
        object_store::Error::Generic { store: "test", source }
    }

    #[test]
    fn pauses_grow_to_the_cap_and_carry_chance() {
        let policy = RetryPolicy::default();
        let millis = |tries, share| policy.pause(tries, share).as_millis();
        assert_eq!([millis(1, 0.0), millis(1, 1.0)], [50, 100]);
        assert_eq!([millis(3, 0.0), millis(3, 1.0)], [200, 400]);
        assert_eq!([millis(99, 0.0), millis(99, 1.0)], [2500, 5000]);
    }

    #[tokio::test]
    async fn the_time_is_bounded() {
        let millis = Duration::from_millis;
        let policy = RetryPolicy { max_elapsed: millis(50), base: millis(1), cap: millis(4) };
        let mut retry = Retry::new(policy, Operation::Get, "x");
        let error = loop {
            if let Err(error) = retry.pause(&unavailable()).await {
                break error;
            }
        };
        // No upper bound is checked: a busy machine oversleeps.
        assert!(matches!(error, Error::Transient { tries: 2.., .. }), "{error}");
        let error = Retry::new(RetryPolicy::never(), Operation::Get, "x").pause(&unavailable()).await.unwrap_err();
        assert!(matches!(error, Error::Transient { tries: 1, .. }), "{error}");
    }

    #[tokio::test]
    async fn what_cannot_help_is_not_tried() {
        let mut retry = Retry::new(RetryPolicy::default(), Operation::Get, "x");
        let denied = object_store::Error::PermissionDenied { path: "x".into(), source: "no".into() };
        assert!(matches!(retry.pause(&denied).await, Err(Error::Permanent { .. })));
    }
}
