//! The question asked at every start: does this store have the two primitives?
use bytes::Bytes;
use futures::future::try_join_all;
use uuid::Uuid;

use crate::{Created, Error, Expected, Replaced, Store, Version};

/// Writers that want the same name at the same moment. Fewer: a server that looks first and writes later is caught less
/// often. More: a start asks more of the store.
const RACERS: usize = 8;

impl Store {
    /// Tries both primitives on a throw-away name: one request after the other, then with several writers at once, for
    /// servers have been seen that keep the conditions only while nobody else writes. A race that was won cleanly proves
    /// nothing; one that two have won does.
    ///
    /// # Errors
    /// [`Error::Unsupported`] names the primitive that is missing; other errors say why the store could not be asked.
    pub async fn probe(&self) -> Result<(), Error> {
        let path = format!(".probe/{}", Uuid::new_v4());
        let verdict = async {
            let version = self.probe_at(&path).await?;
            self.probe_races(&path, version).await
        }
        .await;
        let cleaned = self.delete(&path).await;
        verdict?;
        cleaned?;
        match self.get(&path).await? {
            None => Ok(()),
            Some(_) => {
                Err(missing("delete", "a removed object could still be read; use a store with strong consistency"))
            }
        }
    }

    async fn probe_at(&self, path: &str) -> Result<Version, Error> {
        let first = match named(CREATE, self.create(path, Bytes::from_static(b"first")).await)? {
            Created::New(version) => version,
            Created::Exists(_) => return Err(missing(CREATE, "it said that a new name exists already")),
        };
        match named(CREATE, self.create(path, Bytes::from_static(b"second")).await)? {
            Created::Exists(found) if found.bytes == "first" && found.version == first => {}
            _ => return Err(missing(CREATE, OVERWRITES)),
        }
        let second = match self.probe_replace(path, b"replaced", &first).await? {
            Replaced::Done(version) if version != first => version,
            Replaced::Done(_) => {
                return Err(missing(REPLACE, "an object's version (ETag) stays the same when its content changes"));
            }
            Replaced::Conflict(_) => {
                return Err(missing(REPLACE, "it refused to replace the version that it had just given"));
            }
        };
        match self.probe_replace(path, b"overwritten", &first).await? {
            Replaced::Conflict(Some(found)) if found.bytes == "replaced" && found.version == second => Ok(second),
            _ => Err(missing(REPLACE, OVERWRITES)),
        }
    }

    /// Races for the version that stands at `path`, and then for the name itself.
    async fn probe_races(&self, path: &str, version: Version) -> Result<(), Error> {
        let racers = (0..RACERS).map(|racer| {
            let (bytes, expected) = (Bytes::from(format!("replaced by {racer}")), Expected::Version(version.clone()));
            async move { named(REPLACE, self.replace(path, bytes, expected).await) }
        });
        let won =
            try_join_all(racers).await?.into_iter().filter(|outcome| matches!(outcome, Replaced::Done(_))).count();
        if won != 1 {
            return Err(missing(REPLACE, &races(won)));
        }
        self.delete(path).await?;
        let racers = (0..RACERS).map(|racer| async move {
            named(CREATE, self.create(path, Bytes::from(format!("created by {racer}"))).await)
        });
        let won = try_join_all(racers).await?.into_iter().filter(|outcome| matches!(outcome, Created::New(_))).count();
        if won == 1 { Ok(()) } else { Err(missing(CREATE, &races(won))) }
    }

    async fn probe_replace(&self, path: &str, bytes: &'static [u8], version: &Version) -> Result<Replaced, Error> {
        let expected = Expected::Version(version.clone());
        named(REPLACE, self.replace(path, Bytes::from_static(bytes), expected).await)
    }
}

const CREATE: &str = "create-if-absent (a put with `If-None-Match: *`; on a disk a hard link)";
const REPLACE: &str = "replace-if (a put with `If-Match`; on a disk a file lock)";
const OVERWRITES: &str = "it overwrote an object that it should have kept, so two writers would lose data; \
    use S3, Google Cloud Storage, Azure Blob Storage, a store with S3's conditional writes, or a local disk";

fn races(won: usize) -> String {
    format!(
        "it keeps the condition for one writer at a time only: of {RACERS} that wrote at once {won} were told that they had \
         won, so two writers would lose data; use S3 itself, or a server whose conditional writes are atomic"
    )
}

fn missing(primitive: &str, advice: &str) -> Error {
    Error::Unsupported { what: primitive.into(), advice: advice.into() }
}

/// A refusal, with the primitive's name in it.
fn named<T>(primitive: &str, result: Result<T, Error>) -> Result<T, Error> {
    result.map_err(|error| match error {
        Error::Unsupported { advice, .. } => {
            missing(primitive, &format!("{advice}; use a store that does, or switch it on"))
        }
        other => other,
    })
}
