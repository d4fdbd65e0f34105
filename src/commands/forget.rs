//! `forget`: takes predictions and their labels out of everything that is kept, by id.
//!
//! The request is a record of the ledger, with hashes of the ids, not the ids. It is carried out here, beside whatever runs; should
//! this process end before, running it again, or an aggregator after ten minutes, goes on.
use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use driftline_aggregator::forget::carry_out;
use driftline_ledger::{ForgetKey, Replica};
use driftline_schemas::clock;
use driftline_schemas::ledger::Entry;
use driftline_store::{Manifest, manifest};

use crate::cli::{ForgetArgs, Global};
use crate::{config, pipeline};

/// Ids in one record of the ledger: more make records that are slow to read, fewer make more of them.
const IDS_A_RECORD: usize = 10_000;

pub(crate) async fn run(global: &Global, args: &ForgetArgs) -> Result<()> {
    let ids = ids(args)?;
    let config = config::load(global)?;
    let store = pipeline::open_store(&config).await?;
    let mut replica = Replica::open(&store, "forget").await.context("read the ledger")?;
    if !replica.state.models.contains_key(&args.model) {
        let known: Vec<&str> = replica.state.models.keys().map(String::as_str).collect();
        bail!("nothing of model {:?} is known; known are: {}", args.model, known.join(", "));
    }
    // From here on builds that would not leave the ids out refuse the store.
    let format = manifest::FORMAT_VERSION;
    Manifest::raise_format(&store, format, clock::now()).await.context("raise the store's format")?;
    let key = ForgetKey::load_or_create(&store, ForgetKey::new(uuid::Uuid::new_v4().into_bytes())).await;
    let key = key.context("read the key of forgotten ids")?;
    let hashes: Vec<String> = ids.iter().map(|id| key.hash(&args.model, id)).collect();
    for hashes in hashes.chunks(IDS_A_RECORD) {
        let entry = Entry::Forget { model: args.model.clone(), ids: hashes.to_vec() };
        replica.append_anywhere(&[entry], clock::now_micros()).await.context("write the ledger")?;
    }
    eprintln!("on record; rewriting what holds the {} id(s)", ids.len());
    let done = carry_out(&store, &mut replica, &args.model).await.context("rewrite what holds the ids")?;
    println!(
        "{} id(s) of {} are forgotten: {} object(s) rewritten, {} window(s) to be judged again",
        ids.len(),
        args.model,
        done.objects,
        done.windows
    );
    if done.windows > 0 {
        println!("a running aggregator and evaluator do that; without one: driftline run --until-caught-up");
    }
    println!("Kafka still holds the records for as long as its topics keep them; what is read again is dropped");
    Ok(())
}

/// The ids that were given, each once.
fn ids(args: &ForgetArgs) -> Result<BTreeSet<String>> {
    let mut ids: BTreeSet<String> = args.prediction_ids.iter().cloned().collect();
    if let Some(file) = &args.ids_file {
        let text = if file.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin()).context("read ids from standard input")?
        } else {
            std::fs::read_to_string(file).with_context(|| format!("read ids from {}", file.display()))?
        };
        // A line is an id as it is, blanks included: only its end is not part of it.
        ids.extend(text.lines().filter(|line| !line.is_empty()).map(str::to_owned));
    }
    ensure!(!ids.is_empty(), "there is no id to forget");
    Ok(ids)
}
