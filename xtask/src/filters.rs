//! What it costs to find the window of a label that does not name it, among many outstanding ids: memory, building, probing.
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use driftline_aggregator::filter::{IdFilter, id_hash};
use driftline_aggregator::objects::{LabelPosition, LabelRow};
use driftline_aggregator::route::{ModelIds, WindowIds};
use driftline_ledger::Horizons;
use driftline_schemas::clock::{DAY, MINUTE, Micros};
use driftline_schemas::window::Window;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const HOUR: Micros = 60 * MINUTE;
/// Labels that are looked up, of known ids and of unknown ones each.
const LABELS: usize = 100_000;

/// Outstanding ids spread evenly over hourly windows, all within the horizon.
pub(crate) fn run(ids: usize, windows: usize) -> Result<()> {
    let an_hour = ids / windows;
    ensure!(an_hour > 0, "there are more windows than ids");
    let (before, mut model) = (resident()?, ModelIds::default());
    let (mut building, mut loading, mut stored) = (Duration::ZERO, Duration::ZERO, 0);
    for at in 0..windows {
        let hashes: Vec<u64> = (0..an_hour).map(|n| id_hash(&id(at, n))).collect();
        let began = Instant::now();
        let filter = IdFilter::new(hashes);
        building += began.elapsed();
        let bytes = filter.to_bytes();
        stored += bytes.len();
        drop(filter);
        // What is probed is what comes back from the store, as after a restart.
        let began = Instant::now();
        let filter = IdFilter::from_bytes(&bytes);
        loading += began.elapsed();
        let Some(filter) = filter else { anyhow::bail!("a stored filter cannot be read") };
        let window = Window { start: at as Micros * HOUR, end: (at + 1) as Micros * HOUR };
        let mut ids = WindowIds::new(window);
        ids.cover(1, vec![filter], |_| false);
        model.windows.insert(window.start, ids);
    }
    let held: usize = model.windows.values().map(WindowIds::size).sum();
    let total = an_hour * windows;
    let each = |bytes: usize| bytes as f64 / total as f64;
    let (after, peak) = (resident()?, peak()?);
    println!("filters: {total} outstanding ids in {windows} windows");
    println!("  {:.3} bytes an id in memory, {:.3} in the store", each(held), each(stored));
    println!(
        "  resident {:.3} bytes an id ({} MB), {} MB at the peak of building",
        each(after.saturating_sub(before)),
        after.saturating_sub(before) >> 20,
        peak.saturating_sub(before) >> 20,
    );
    println!(
        "  built in {:.0} ns an id, read back in {:.1} ns an id ({:.2} s for all)",
        building.as_nanos() as f64 / total as f64,
        loading.as_nanos() as f64 / total as f64,
        loading.as_secs_f64(),
    );
    ensure!(each(held) <= 3.0, "more than 3 bytes an outstanding prediction");

    let horizons = Horizons::always(30 * DAY);
    let chance = &mut StdRng::seed_from_u64(1);
    let newest = windows as Micros * HOUR;
    for (what, is_known) in [("known", true), ("unknown", false)] {
        let labels: Vec<LabelRow> = (0..LABELS)
            .map(|n| {
                let at = chance.random_range(0..windows);
                let id = if is_known { id(at, chance.random_range(0..an_hour)) } else { format!("unknown-{n}") };
                label(id, newest)
            })
            .collect();
        let began = Instant::now();
        let mut found = 0;
        for label in &labels {
            found += black_box(model.windows_of("m", label, None, &horizons)).len();
        }
        let spent = began.elapsed();
        let right = if is_known { LABELS } else { 0 };
        ensure!(found >= right, "a known id was not found");
        let probes = LABELS * windows;
        let wrong = found - right;
        println!(
            "  labels of {what} ids: {windows} probes and {:.1} us each; {wrong} false positives in {} probes, one in {:.0}",
            spent.as_secs_f64() * 1e6 / LABELS as f64,
            probes - right,
            (probes - right) as f64 / wrong.max(1) as f64,
        );
        println!(
            "    one label in {:.0} goes to a window that does not know it, for nothing",
            LABELS as f64 / wrong.max(1) as f64
        );
    }
    Ok(())
}

fn id(window: usize, number: usize) -> String {
    format!("{window:08x}-9c41-4d5e-8f21-{number:012x}")
}

fn label(id: String, time: Micros) -> LabelRow {
    let position = LabelPosition { topic: "l".into(), partition: 0, offset: 0, index: 0 };
    LabelRow { id, time, label: Some("1".into()), value: Some(1.0), hint: None, position }
}

/// Bytes of this process in memory.
fn resident() -> Result<usize> {
    status("VmRSS:")
}

/// The most there ever were.
fn peak() -> Result<usize> {
    status("VmHWM:")
}

fn status(key: &str) -> Result<usize> {
    status_of(&std::fs::read_to_string("/proc/self/status")?, key)
}

/// Bytes, from the status of a process.
pub(crate) fn status_of(status: &str, key: &str) -> Result<usize> {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kilobytes.map(|kilobytes| kilobytes << 10).ok_or_else(|| anyhow::anyhow!("the status of the process has no {key}"))
}
