//! Carries out what the ledger was asked to forget: no object of the store holds the ids afterwards, and the accounts still
//! add up.
//!
//! ```text
//! Forget ─► jobs decided before it come to their end ─► raw/ routed/ history/ filters/ rewritten ─► Forgotten
//!           (those decided after it leave the ids out by themselves, and so do objects that are applied after it)
//! ```
//!
//! Everything here can be done twice, by anyone, beside anything: an object is replaced only if it is what was read, and an
//! object without the ids is left alone. So a process that dies anywhere leaves what the next one finishes.
use driftline_ledger::forget::Omissions;
use driftline_ledger::state::ChainState;
use driftline_ledger::{ForgetKey, LedgerState, Replica};
use driftline_schemas::clock;
use driftline_schemas::history::part_name;
use driftline_schemas::ledger::{Entry, Job};
use driftline_schemas::window::Window;
use driftline_store::{Expected, Object, Replaced, Store, paths};
use std::collections::BTreeMap;

use crate::error::Error;
use crate::{judge, scrub, telemetry};

/// What was taken out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Objects that were rewritten.
    pub objects: u64,
    /// Windows whose figures are to be computed again.
    pub windows: u64,
}

/// Rewrites every object that holds what was asked of a model so far, and records it.
///
/// # Errors
/// Those of the store and the ledger. What was done stays done, and the next call goes on.
pub async fn carry_out(store: &Store, replica: &mut Replica, model: &str) -> Result<Forgotten, Error> {
    replica.catch_up().await?;
    let Some(upto) = replica.state.forgotten.get(model).map(|forgotten| forgotten.last) else {
        return Ok(Forgotten::default());
    };
    let omissions = Omissions::of(&replica.state, ForgetKey::load(store).await?);
    settle(store, replica, model, upto).await?;
    let mut done = Forgotten::default();
    for chain in replica.state.chains.keys().cloned().collect::<Vec<_>>() {
        scrub_chain(store, replica, &chain, &omissions, &mut done).await?;
    }
    for listed in store.list(paths::ROUTED).await? {
        let rewrite = |object: &Object| scrub::routed(&object.bytes, &omissions);
        done.objects += u64::from(rewrite_object(store, &listed.path, rewrite).await?);
    }
    scrub_history(store, replica, model, &omissions, &mut done).await?;
    replica.append_anywhere(&[Entry::Forgotten { model: model.to_owned(), upto }], clock::now_micros()).await?;
    telemetry::forgotten(model, done);
    Ok(done)
}

/// Judges all parts of the model's jobs that do not know of the request. Once they stand, nobody writes them again.
async fn settle(store: &Store, replica: &mut Replica, model: &str, upto: u64) -> Result<(), Error> {
    loop {
        replica.catch_up().await?;
        let Some((job, part)) = ignorant_part(&replica.state, model, upto) else { return Ok(()) };
        match judge::judge(store, &replica.state, &job, part).await {
            Ok(Some(counts)) => {
                let (model, window, revision) = (job.model, job.window, job.revision);
                let judged = Entry::Judged { model, window, revision, part, counts };
                replica.append_anywhere(&[judged], clock::now_micros()).await?;
            }
            Ok(None) => {}
            Err(Error::Gone { path }) => {
                // Somebody else may have done it meanwhile, and its inputs are deleted.
                if replica.catch_up().await? == 0 {
                    return Err(Error::Gone { path });
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn ignorant_part(state: &LedgerState, model: &str, upto: u64) -> Option<(Job, u32)> {
    state.models.get(model)?.windows.values().find_map(|window| {
        let job = window.open.as_ref().filter(|job| job.forgets < upto)?;
        let part = (0..job.parts).find(|part| !window.judged.contains_key(part))?;
        Some((job.clone(), part))
    })
}

/// Rewrites the raw objects of a chain that the ledger has applied, and records how many rows are gone.
async fn scrub_chain(
    store: &Store,
    replica: &mut Replica,
    chain: &str,
    omissions: &Omissions,
    done: &mut Forgotten,
) -> Result<(), Error> {
    // Behind the boundary nobody counts any more, but until they are deleted the objects hold what they hold.
    let retired = replica.state.chains.get(chain).and_then(|chain| chain.retired.clone());
    for from in retired.iter().flat_map(|retired| &retired.deleting) {
        let path = paths::raw_object(chain, *from as u64);
        let rewrite = |object: &Object| Ok(scrub::raw(&path, &object.bytes, omissions)?.map(|(bytes, _)| bytes));
        done.objects += u64::from(rewrite_object(store, &path, rewrite).await?);
    }
    let Some(mut at) = replica.state.chains.get(chain).and_then(ChainState::kept_from) else { return Ok(()) };
    let mut forgotten: BTreeMap<String, u64> =
        retired.map(|retired| retired.totals.forgotten.clone()).unwrap_or_default();
    loop {
        replica.catch_up().await?;
        let state = |replica: &Replica| replica.state.chains.get(chain).cloned();
        let Some(known) = state(replica) else { return Ok(()) };
        let Some(to) = known.applied_to else { return Ok(()) };
        if known.kept_from() > Some(at) {
            // Its objects went while they were looked at: what they held is in the sums behind the boundary.
            at = known.kept_from().unwrap_or(at);
            forgotten = known.retired.as_ref().map(|retired| retired.totals.forgotten.clone()).unwrap_or_default();
        }
        while at < to {
            let path = paths::raw_object(chain, at as u64);
            let Some(footer) = scrub_raw(store, &path, omissions, done).await? else { break };
            for share in footer.models.iter().filter(|share| share.forgotten_rows() > 0) {
                *forgotten.entry(share.model.clone()).or_default() += share.forgotten_rows();
            }
            at = footer.to;
        }
        if at < to {
            replica.catch_up().await?;
            if state(replica).and_then(|chain| chain.kept_from()) > Some(at) {
                continue;
            }
            return Err(Error::Gone { path: paths::raw_object(chain, at as u64) });
        }
        if state(replica).is_some_and(|known| known.forgotten == forgotten && known.applied_to == Some(at)) {
            return Ok(());
        }
        let entry = Entry::Scrubbed { chain: chain.to_owned(), to: at, forgotten: forgotten.clone() };
        // Lost to another record: the chain may have grown, and the sum with it.
        if let driftline_ledger::Outcome::Mine = replica.append(&[entry], None, clock::now_micros()).await? {
            return Ok(());
        }
    }
}

/// Rewrites one raw object if it has to be; its footer as it stands then, `None` if it is gone.
async fn scrub_raw(
    store: &Store,
    path: &str,
    omissions: &Omissions,
    done: &mut Forgotten,
) -> Result<Option<driftline_schemas::raw::RawFooter>, Error> {
    let rewrite = |object: &Object| Ok(scrub::raw(path, &object.bytes, omissions)?.map(|(bytes, _)| bytes));
    done.objects += u64::from(rewrite_object(store, path, rewrite).await?);
    let Some(object) = store.get(path).await? else { return Ok(None) };
    crate::follow::footer_of(path, &object.bytes).map(Some)
}

/// Replaces an object by what `rewrite` makes of it, until nothing is left to do.
///
/// # Returns
/// Whether it was replaced.
pub(crate) async fn rewrite_object(
    store: &Store,
    path: &str,
    rewrite: impl Fn(&Object) -> Result<Option<bytes::Bytes>, Error>,
) -> Result<bool, Error> {
    let mut found = store.get(path).await?;
    while let Some(object) = found {
        let Some(bytes) = rewrite(&object)? else { return Ok(false) };
        found = match store.replace(path, bytes, Expected::Version(object.version)).await? {
            Replaced::Done(_) => return Ok(true),
            Replaced::Conflict(now) => now,
        };
    }
    Ok(false)
}

async fn scrub_history(
    store: &Store,
    replica: &mut Replica,
    model: &str,
    omissions: &Omissions,
    done: &mut Forgotten,
) -> Result<(), Error> {
    replica.catch_up().await?;
    let windows: Vec<(Window, u32)> = replica.state.models.get(model).map_or_else(Vec::new, |model| {
        let written = model.windows.values().filter(|w| w.history_revision > 0 || w.open.is_some());
        written.map(|window| (window.window, window.parts)).collect()
    });
    for (window, parts) in windows {
        let mut has_changed = false;
        for part in 0..parts {
            has_changed |= scrub_part(store, replica, model, (window, part), omissions, done).await?;
        }
        done.windows += u64::from(has_changed);
    }
    Ok(())
}

/// Rewrites a part of a window, and records its account if the ledger has another.
async fn scrub_part(
    store: &Store,
    replica: &mut Replica,
    model: &str,
    (window, part): (Window, u32),
    omissions: &Omissions,
    done: &mut Forgotten,
) -> Result<bool, Error> {
    let path = judge::history_path(model, window, part);
    let (footer, counts) = loop {
        let Some(object) = store.get(&path).await? else { return Ok(false) };
        let footer = judge::read_footer(&path, &object)?;
        let Some(scrubbed) = scrub::history(&object.bytes, &footer, omissions)? else {
            let bytes = object.bytes.len() as u64;
            let counts = driftline_schemas::ledger::PartCounts { bytes, ..footer.counts.clone() };
            break (footer, counts);
        };
        // The filter first: one that was read with the ids in it costs a useless look, no more.
        let filter = paths::filter(model, &part_name(window, part), footer.revision);
        store.put(&filter, scrubbed.filter.to_bytes().into()).await?;
        if let Replaced::Done(_) = store.replace(&path, scrubbed.bytes, Expected::Version(object.version)).await? {
            done.objects += 1;
            break (footer, scrubbed.counts);
        }
    };
    replica.catch_up().await?;
    let revision = footer.revision;
    let known = replica.state.window(model, window.start).and_then(|record| match &record.open {
        Some(open) if open.revision == revision => record.judged.get(&part),
        _ if record.history_revision == revision => record.counts.get(&part),
        // A job that is done and not reported yet: whoever reports it read the footer.
        _ => Some(&counts),
    });
    if known.is_none_or(|known| known.forgotten == counts.forgotten) {
        return Ok(false);
    }
    let entry = Entry::ScrubbedPart { model: model.to_owned(), window, revision, part, counts };
    replica.append_anywhere(&[entry], clock::now_micros()).await?;
    Ok(true)
}
