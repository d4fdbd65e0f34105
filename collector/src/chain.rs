//! A raw chain's birth and its end, from the store alone: Kafka's committed offsets are never asked (**C4**).
use std::collections::HashMap;

use bytes::Bytes;
use driftline_schemas::clock::now_micros;
use driftline_schemas::raw::{FORMAT, Facts, Genesis, RawFooter};
use driftline_store::{Boundary, Created, Store, paths};
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::source::ChainTail;

/// Reads a chain's genesis.
pub async fn read_genesis(store: &Store, chain: &str) -> Result<Option<Genesis>, Error> {
    read_json(store, &paths::genesis(chain)).await
}

/// Creates a chain's genesis unless there is one; whoever was first, the genesis that stands is returned.
pub async fn create_genesis(store: &Store, chain: &str, genesis: Genesis) -> Result<Genesis, Error> {
    let path = paths::genesis(chain);
    match store.create(&path, to_json(&genesis)).await? {
        Created::New(_) => Ok(genesis),
        Created::Exists(object) => from_json(&path, &object.bytes),
    }
}

/// A genesis that begins at an offset.
pub fn genesis(topic: &str, topic_id: Option<String>, partition: u32, from: i64) -> Genesis {
    Genesis { format: FORMAT, topic: topic.to_owned(), topic_id, partition, from, created_at: now_micros() }
}

/// The chain's end: walked by known next names from the furthest proven boundary, and never from a slot whose object has been
/// deleted.
pub async fn seek_tail(
    store: &Store,
    chain: &str,
    genesis: &Genesis,
    applied: Option<i64>,
) -> Result<ChainTail, Error> {
    let mut tail = ChainTail {
        chain: chain.to_owned(),
        topic_id: genesis.topic_id.clone(),
        to: applied.unwrap_or(genesis.from).max(genesis.from),
        last_from: None,
        written_at: None,
    };
    if let Some(kept) = behind_boundary(store, &tail, tail.to).await? {
        tail = kept;
    }
    let mut first = tail.to;
    if let Some(footer) = proven_by_facts(store, chain).await?.filter(|footer| footer.from >= tail.to) {
        first = footer.from;
        advance(&mut tail, &footer);
    }
    walk_from(store, tail, first).await
}

/// Follows the chain from a boundary that is known to be one.
pub async fn walk(store: &Store, tail: ChainTail) -> Result<ChainTail, Error> {
    let first = tail.to;
    walk_from(store, tail, first).await
}

/// Follows the chain; `first` is the first slot that was read or will be. If it lies behind the chain's boundary by the end,
/// what was there may have been deleted, or be none of the chain's, and the walk begins again at the boundary.
pub(crate) async fn walk_from(store: &Store, mut tail: ChainTail, mut first: i64) -> Result<ChainTail, Error> {
    loop {
        while let Some(footer) = read_footer(store, &tail.chain, tail.to).await? {
            advance(&mut tail, &footer);
        }
        match behind_boundary(store, &tail, first).await? {
            None => return Ok(tail),
            Some(kept) => {
                first = kept.to;
                tail = kept;
            }
        }
    }
}

/// Where the chain goes on, if a slot lies behind its boundary; `None` if it does not, and never did.
pub(crate) async fn behind_boundary(store: &Store, tail: &ChainTail, slot: i64) -> Result<Option<ChainTail>, Error> {
    let boundary = Boundary::read(store, &paths::boundary(&tail.chain)).await?;
    Ok(boundary.filter(|boundary| boundary.to as i64 > slot).map(|boundary| ChainTail {
        chain: tail.chain.clone(),
        topic_id: tail.topic_id.clone(),
        to: boundary.to as i64,
        last_from: None,
        written_at: boundary.details.get("written_at").and_then(serde_json::Value::as_i64),
    }))
}

/// The footer of the raw object that begins at an offset; `None` if there is none.
pub async fn read_footer(store: &Store, chain: &str, from: i64) -> Result<Option<RawFooter>, Error> {
    let path = paths::raw_object(chain, from as u64);
    let Some(end) = store.parquet_end(&path).await? else { return Ok(None) };
    RawFooter::from_bytes(&end).map(Some).map_err(|source| Error::RawObject { path, source })
}

/// How far the ledger has applied each chain: a proven boundary, from the newest advice.
pub async fn applied_boundaries(store: &Store) -> Result<HashMap<String, i64>, Error> {
    #[derive(serde::Deserialize, Default)]
    struct Latest {
        #[serde(default)]
        applied: HashMap<String, i64>,
    }
    let Some(object) = store.get(paths::LATEST).await? else { return Ok(HashMap::new()) };
    // Advice that cannot be read is advice not given: the walk from genesis is exact, only longer.
    Ok(serde_json::from_slice::<Latest>(&object.bytes).unwrap_or_default().applied)
}

/// A chain's facts, if any were written.
pub async fn read_facts(store: &Store, chain: &str) -> Result<Option<Facts>, Error> {
    read_json(store, &paths::facts(chain)).await
}

/// Overwrites a chain's facts.
pub async fn write_facts(store: &Store, chain: &str, facts: &Facts) -> Result<(), Error> {
    Ok(store.put(&paths::facts(chain), to_json(facts)).await?)
}

/// Facts name the chain's last object; only the object itself proves the boundary.
async fn proven_by_facts(store: &Store, chain: &str) -> Result<Option<RawFooter>, Error> {
    let facts = match read_facts(store, chain).await {
        Err(Error::Json { .. }) => None,
        facts => facts?,
    };
    match facts.and_then(|facts| facts.tail_from) {
        Some(from) => read_footer(store, chain, from).await,
        None => Ok(None),
    }
}

fn advance(tail: &mut ChainTail, footer: &RawFooter) {
    tail.last_from = Some(footer.from);
    tail.to = footer.to;
    tail.written_at = Some(footer.written_at);
}

async fn read_json<T: DeserializeOwned>(store: &Store, path: &str) -> Result<Option<T>, Error> {
    store.get(path).await?.map(|object| from_json(path, &object.bytes)).transpose()
}

fn from_json<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json { path: path.to_owned(), source })
}

fn to_json<T: serde::Serialize>(value: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("plain structs with string keys serialise"))
}
