//! The whole pipeline in memory, some tens of seeds; `cargo xtask chaos simulate --seeds 5000` is the same for longer.

use anyhow::{Context, Result};
use driftline_integration_tests::chaos::simulation;

/// C1, C3, C4, T4, H1, H2, A1: killed, frozen and sent elsewhere, every seed ends as an undisturbed run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_every_seed_ends_as_an_undisturbed_run() -> Result<()> {
    let number = |variable: &str, default: u64| -> Result<u64> {
        std::env::var(variable)
            .map_or(Ok(default), |text| text.parse().with_context(|| format!("{variable} is a number")))
    };
    let first = number("DRIFTLINE_TEST_SEED", u64::from(rand::random::<u32>()))?;
    simulation::run_seeds(first, number("DRIFTLINE_CHAOS_SEEDS", 60)?).await
}
