//! `reevaluate`: asks the ledger to judge past windows again; running aggregators and evaluators do the work.
use anyhow::{Context, Result, bail};
use driftline_ledger::{Outcome, Replica};
use driftline_schemas::clock;
use driftline_schemas::ledger::Entry;

use crate::cli::{Global, ReevaluateArgs};
use crate::{config, pipeline};

pub(crate) async fn run(global: &Global, args: &ReevaluateArgs) -> Result<()> {
    let config = config::load(global)?;
    let store = pipeline::open_store(&config).await?;
    let mut replica = Replica::open(&store, "reevaluate").await.context("read the ledger")?;
    loop {
        let Some(model) = replica.state.models.get(&args.model) else {
            let known: Vec<&str> = replica.state.models.keys().map(String::as_str).collect();
            bail!("no window of model {:?} is known; known are: {}", args.model, known.join(", "));
        };
        let from = args.from.map(|time| time.timestamp_micros());
        let to = args.to.map(|time| time.timestamp_micros());
        let inside = |start: i64, end: i64| from.is_none_or(|from| end > from) && to.is_none_or(|to| start < to);
        let windows = model.windows.values().filter(|w| inside(w.window.start, w.window.end)).count();
        let mut entries = Vec::new();
        if replica.state.judge_config() != Some(&config.judge) {
            entries.push(Entry::Config(Box::new(replica.state.next_epoch(config.judge.clone()))));
        }
        entries.push(Entry::Reevaluate { model: args.model.clone(), from, to });
        if let Outcome::Mine = replica.append(&entries, None, clock::now_micros()).await.context("write the ledger")? {
            println!("{windows} window(s) of {} will be judged again", args.model);
            println!("a running aggregator and evaluator do it; without one: driftline run --until-caught-up");
            return Ok(());
        }
    }
}
