//! The manifest, `driftline.json`: what is frozen for the life of a store, and which chain belongs to which topic.
use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    Created, Error, Expected, Operation, Replaced, Store, Version,
    paths::{MANIFEST, chain_name, encode_segment},
};

/// The highest `format_version` that this build can read and write.
pub const FORMAT_VERSION: u32 = 2;
/// The `format_version` of a store in which nothing was ever deleted or forgotten: every build reads it.
pub const FORMAT_VERSION_FIRST: u32 = 1;

/// How often a registration is tried against other writers. Each lost round is another's success, so this is also how
/// many others may register at the same moment.
const ROUNDS_MAX: u32 = 1000;

/// The manifest. Fields that this build does not know are kept when it is written again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The layout of the whole store.
    pub format_version: u32,
    /// When the store was made.
    pub created_at: DateTime<Utc>,
    /// The length of a base window, of which all windows of models are unions.
    pub base_window_secs: u32,
    /// By how much producers' clocks may be ahead.
    pub max_skew_secs: u32,
    /// Which decoder makes rows of records.
    pub decoder_version: u32,
    /// The incarnations of each topic, the present one last.
    pub topics: BTreeMap<String, Vec<TopicIncarnation>>,
    /// What newer builds have written.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A topic from its creation to its deletion. Created again under the same name it is another one, with chains of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopicIncarnation {
    /// Names its chains.
    pub key: String,
    /// The broker's id of it, as soon as a broker has told one.
    pub topic_id: Option<String>,
    /// What its records are.
    pub kind: TopicKind,
    /// The most partitions it has been seen with. Kafka's never become fewer.
    pub partitions: u32,
    /// When it was first seen.
    pub created_at: DateTime<Utc>,
    /// What newer builds have written.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What the records of a topic are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopicKind {
    /// Prediction events.
    Predictions,
    /// Label events.
    Labels,
}

/// One partition of one incarnation of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainRef {
    /// The topic's name.
    pub topic: String,
    /// The incarnation's key.
    pub key: String,
    /// The partition.
    pub partition: u32,
    /// What its records are.
    pub kind: TopicKind,
    /// Whether it is the topic's present incarnation.
    pub current: bool,
}

impl ChainRef {
    /// The chain's name, as in [`chain_name`].
    pub fn name(&self) -> String {
        chain_name(&self.key, self.partition)
    }
}

impl Manifest {
    /// The manifest of a store that is made now.
    pub fn new(now: DateTime<Utc>) -> Self {
        Self {
            format_version: FORMAT_VERSION_FIRST,
            created_at: now,
            base_window_secs: 60,
            max_skew_secs: 600,
            decoder_version: 1,
            topics: BTreeMap::new(),
            extra: Map::new(),
        }
    }

    /// Reads the manifest; `None` if the store has none yet.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if a newer build has laid out the store; [`Error::Corrupt`] if it is no manifest.
    pub async fn load(store: &Store) -> Result<Option<Self>, Error> {
        store.get(MANIFEST).await?.map(|object| Self::parse(&object.bytes)).transpose()
    }

    /// Reads the manifest, or makes the store's first. Of several makers one wins, and all get what it wrote.
    pub async fn load_or_create(store: &Store, now: DateTime<Utc>) -> Result<Self, Error> {
        Ok(Self::load_or_create_versioned(store, now).await?.0)
    }

    async fn load_or_create_versioned(store: &Store, now: DateTime<Utc>) -> Result<(Self, Version), Error> {
        if let Some(object) = store.get(MANIFEST).await? {
            return Ok((Self::parse(&object.bytes)?, object.version));
        }
        let first = Self::new(now);
        match store.create(MANIFEST, first.to_bytes()).await? {
            Created::New(version) => Ok((first, version)),
            Created::Exists(object) => Ok((Self::parse(&object.bytes)?, object.version)),
        }
    }

    /// Sees to it that a topic is known with at least so many partitions, and tells which incarnation it is.
    ///
    /// Another `topic_id` than the known one is a new incarnation, unless an earlier one has that id: then a process with
    /// an old picture asks, and gets its old chain. An id where none was known is learnt: a broker upgrade brings ids.
    /// No id at all (`None`) is taken for the present incarnation.
    ///
    /// # Errors
    /// [`Error::Permanent`] if the topic is known as one of the other kind.
    pub async fn register_topic(
        store: &Store,
        name: &str,
        kind: TopicKind,
        topic_id: Option<&str>,
        partitions: u32,
        now: DateTime<Utc>,
    ) -> Result<(Self, TopicIncarnation), Error> {
        for round in 0..ROUNDS_MAX {
            let (mut manifest, version) = Self::load_or_create_versioned(store, now).await?;
            let before = manifest.clone();
            let incarnation = manifest.note_topic(name, kind, topic_id, partitions, now)?.clone();
            if manifest == before {
                return Ok((manifest, incarnation));
            }
            match store.replace(MANIFEST, manifest.to_bytes(), Expected::Version(version)).await? {
                Replaced::Done(_) => return Ok((manifest, incarnation)),
                // Others are at it. The pause parts the crowd; whatever was lost is looked at anew.
                Replaced::Conflict(_) => {
                    let pause_ms = rand::random_range(1..=10 * u64::from(round.min(20) + 1));
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                }
            }
        }
        Err(Error::Transient {
            operation: Operation::Replace,
            path: MANIFEST.into(),
            tries: ROUNDS_MAX,
            elapsed: Duration::ZERO,
            cause: "other writers were faster every time".into(),
        })
    }

    /// Sees to it that the store's format is at least this one. Builds that do not know it refuse the store from then on,
    /// those that run with their next look at the manifest.
    pub async fn raise_format(store: &Store, format_version: u32, now: DateTime<Utc>) -> Result<(), Error> {
        loop {
            let (mut manifest, version) = Self::load_or_create_versioned(store, now).await?;
            if manifest.format_version >= format_version {
                return Ok(());
            }
            manifest.format_version = format_version;
            if let Replaced::Done(_) = store.replace(MANIFEST, manifest.to_bytes(), Expected::Version(version)).await? {
                return Ok(());
            }
        }
    }

    /// Every partition of every incarnation, in a fixed order: topics by name, incarnations by age.
    pub fn chains(&self) -> Vec<ChainRef> {
        let mut chains = Vec::new();
        for (topic, incarnations) in &self.topics {
            for (at, incarnation) in incarnations.iter().enumerate() {
                chains.extend((0..incarnation.partitions).map(|partition| ChainRef {
                    topic: topic.clone(),
                    key: incarnation.key.clone(),
                    partition,
                    kind: incarnation.kind,
                    current: at + 1 == incarnations.len(),
                }));
            }
        }
        chains
    }

    /// The pure half of [`Self::register_topic`].
    fn note_topic(
        &mut self,
        name: &str,
        kind: TopicKind,
        topic_id: Option<&str>,
        partitions: u32,
        now: DateTime<Utc>,
    ) -> Result<&TopicIncarnation, Error> {
        let incarnations = self.topics.entry(name.to_owned()).or_default();
        if let Some(other) = incarnations.iter().find(|known| known.kind != kind) {
            return Err(Error::Permanent {
                operation: Operation::Replace,
                path: MANIFEST.into(),
                advice: "a topic holds either predictions or labels; check the topics in the configuration".into(),
                cause: format!("the topic {name:?} is known to hold {:?}, not {kind:?}", other.kind),
            });
        }
        let of_this_id =
            topic_id.and_then(|id| incarnations.iter().position(|known| known.topic_id.as_deref() == Some(id)));
        let present = incarnations.len().checked_sub(1);
        let at = match (of_this_id, present) {
            (Some(at), _) => at,
            (None, Some(at)) if topic_id.is_none() || incarnations[at].topic_id.is_none() => at,
            _ => {
                incarnations.push(TopicIncarnation {
                    key: incarnation_key(name, incarnations.len()),
                    topic_id: None,
                    kind,
                    partitions: 0,
                    created_at: now,
                    extra: Map::new(),
                });
                incarnations.len() - 1
            }
        };
        let incarnation = &mut incarnations[at];
        if incarnation.topic_id.is_none() {
            incarnation.topic_id = topic_id.map(str::to_owned);
        }
        incarnation.partitions = incarnation.partitions.max(partitions);
        Ok(incarnation)
    }

    fn parse(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Format {
            format_version: u32,
        }
        // The version first: a newer layout need not have the fields of this one.
        let Format { format_version } =
            serde_json::from_slice(bytes).map_err(|error| Error::corrupt(MANIFEST, error))?;
        if format_version > FORMAT_VERSION {
            return Err(Error::Unsupported {
                what: format!(
                    "this build: it has format version {format_version}, this build knows versions up to {FORMAT_VERSION}"
                ),
                advice: "a newer driftline has written it; use that version or a later one".into(),
            });
        }
        serde_json::from_slice(bytes).map_err(|error| Error::corrupt(MANIFEST, error))
    }

    fn to_bytes(&self) -> Bytes {
        let mut text =
            serde_json::to_vec_pretty(self).expect("maps with string keys, strings and integers are always JSON");
        text.push(b'\n');
        text.into()
    }
}

/// The longest encoded topic in a chain's name. File systems allow 255 bytes to a name, and a partition, a second incarnation
/// and `.json` are still to be added; Kafka allows a topic 249.
const TOPIC_IN_KEY_MAX: usize = 200;

/// `<topic>`, then `<topic>~2`, `<topic>~3`: an encoded topic has no `~` of its own. Of a topic that is too long for a file's
/// name its beginning and its hash stand for it: `<beginning>~<16 hexadecimal digits>`.
fn incarnation_key(topic: &str, earlier: usize) -> String {
    let mut key = encode_segment(topic);
    if key.len() > TOPIC_IN_KEY_MAX {
        key.truncate(TOPIC_IN_KEY_MAX - 17); // encoded, so every byte is a character
        key = format!("{key}~{:016x}", xxh3_64(topic.as_bytes()));
    }
    match earlier {
        0 => key,
        _ => format!("{key}~{}", earlier + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(secs, 0).unwrap()
    }

    /// Notes each sighting of topic `t` and tells the key that it got.
    fn keys(sightings: &[(Option<&str>, u32)]) -> (Manifest, Vec<String>) {
        let mut manifest = Manifest::new(at(0));
        let mut note = |(id, partitions): &(Option<&str>, u32)| {
            manifest.note_topic("t", TopicKind::Predictions, *id, *partitions, at(1)).unwrap().key.clone()
        };
        let keys = sightings.iter().map(&mut note).collect();
        (manifest, keys)
    }

    #[test]
    fn a_topic_created_again_gets_chains_of_its_own() {
        let (manifest, seen) = keys(&[(Some("a"), 3), (Some("b"), 2), (Some("b"), 4), (Some("c"), 1), (Some("a"), 3)]);
        assert_eq!(seen, ["t", "t~2", "t~2", "t~3", "t"], "the last is a zombie with an old picture");
        let chains = manifest.chains();
        assert_eq!(chains.len(), 3 + 4 + 1);
        assert_eq!(chains.iter().filter(|chain| chain.current).map(ChainRef::name).collect::<Vec<_>>(), ["t~3~0"]);
        assert_eq!(chains[0].name(), "t~0");
    }

    #[test]
    fn the_longest_topics_have_keys_that_fit_a_file_name_and_differ() {
        assert_eq!(incarnation_key(&"t".repeat(TOPIC_IN_KEY_MAX), 0), "t".repeat(TOPIC_IN_KEY_MAX));
        let longest = |last: char| format!("{}{last}", "t".repeat(248));
        let keys =
            [incarnation_key(&longest('a'), 0), incarnation_key(&longest('b'), 0), incarnation_key(&longest('a'), 98)];
        assert!(keys[0] != keys[1] && keys[2] == format!("{}~99", keys[0]), "{keys:?}");
        assert!(crate::paths::facts(&chain_name(&keys[2], i32::MAX as u32)).len() <= "facts/".len() + 255);
    }

    #[test]
    fn a_broker_upgrade_that_brings_ids_keeps_the_chain() {
        let (manifest, seen) = keys(&[(None, 2), (None, 2), (Some("a"), 2), (None, 5), (Some("a"), 1)]);
        assert_eq!(seen, ["t"; 5]);
        let incarnation = &manifest.topics["t"][0];
        assert_eq!((incarnation.topic_id.as_deref(), incarnation.partitions), (Some("a"), 5));
    }

    #[test]
    fn a_topic_cannot_change_its_kind() {
        let mut manifest = Manifest::new(at(0));
        manifest.note_topic("t", TopicKind::Labels, None, 1, at(0)).unwrap();
        let error = manifest.note_topic("t", TopicKind::Predictions, Some("b"), 1, at(0)).unwrap_err();
        assert!(error.to_string().contains("\"t\" is known to hold Labels"), "{error}");
    }

    #[test]
    fn what_a_newer_build_wrote_is_kept_or_refused() {
        let mut value = serde_json::to_value(keys(&[(None, 1)]).0).unwrap();
        value["colour"] = "blue".into();
        value["topics"]["t"][0]["shape"] = serde_json::json!({"round": true});
        let parsed = Manifest::parse(value.to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&parsed.to_bytes()).unwrap(), value);

        let error = Manifest::parse(br#"{"format_version": 3, "layout": []}"#).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }));
        assert!(error.to_string().contains("format version 3"), "{error}");
        assert!(matches!(Manifest::parse(b"{}"), Err(Error::Corrupt { .. })));
        assert!(matches!(Manifest::parse(b""), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn the_file_is_as_documented() {
        let value = serde_json::to_value(keys(&[(None, 1)]).0).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "format_version": 1, "created_at": "1970-01-01T00:00:00Z", "base_window_secs": 60, "max_skew_secs": 600,
                "decoder_version": 1, "topics": {"t": [{"key": "t", "topic_id": null, "kind": "predictions",
                "partitions": 1, "created_at": "1970-01-01T00:00:01Z"}]},
            })
        );
    }
}
