//! Time in which this machine was awake. A shared one may stand still for a minute, and then nobody has waited for anything: what
//! a test grants others is counted by this, what it measures of Driftline by the clock.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

/// Shorter counts more exactly, and costs more wake-ups.
const TICK: Duration = Duration::from_millis(100);

/// A stopwatch that stands still when the machine does, and runs slower when it is crowded.
pub struct Awake {
    ticks: Arc<AtomicU32>,
    ticking: JoinHandle<()>,
}

impl Awake {
    /// Runs from now on; it needs a runtime.
    pub fn start() -> Self {
        let ticks = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&ticks);
        let ticking = tokio::spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Awake { ticks, ticking }
    }

    /// How long the machine was awake since.
    pub fn elapsed(&self) -> Duration {
        TICK * self.ticks.load(Ordering::Relaxed)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.ticking.abort();
    }
}

/// What `future` gives, or `None` if it takes longer than that.
pub async fn within<T>(at_most: Duration, future: impl Future<Output = T>) -> Option<T> {
    let awake = Awake::start();
    let mut future = pin!(future);
    loop {
        match tokio::time::timeout(TICK, &mut future).await {
            Ok(done) => return Some(done),
            Err(_) if awake.elapsed() >= at_most => return None,
            Err(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_stood_still_has_not_waited() {
    let awake = Awake::start();
    assert_eq!(within(Duration::from_millis(500), std::future::pending::<()>()).await, None);
    assert_eq!(within(Duration::from_secs(5), async { 7 }).await, Some(7));
    let waited = awake.elapsed();
    assert!(waited >= Duration::from_millis(300), "{waited:?}");
}

/// A runtime of one thread that is blocked is a machine that stands still.
#[tokio::test]
async fn time_that_nobody_had_is_not_counted() {
    let awake = Awake::start();
    tokio::time::sleep(TICK).await;
    std::thread::sleep(TICK * 20);
    tokio::time::sleep(TICK).await;
    assert!(awake.elapsed() < TICK * 10, "{:?}", awake.elapsed());
}
