//! The question asked at every start: does this store have the two primitives?
use bytes::Bytes;
use uuid::Uuid;

use crate::{Created, Error, Expected, Replaced, Store, Version};

impl Store {
    /// Tries both primitives on a throw-away name.
    ///
    /// # Errors
    /// [`Error::Unsupported`] names the primitive that is missing; other errors say why the store could not be asked.
    pub async fn probe(&self) -> Result<(), Error> {
        let path = format!(".probe/{}", Uuid::new_v4());
        let verdict = self.probe_at(&path).await;
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

    async fn probe_at(&self, path: &str) -> Result<(), Error> {
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
            Replaced::Conflict(Some(found)) if found.bytes == "replaced" && found.version == second => Ok(()),
            _ => Err(missing(REPLACE, OVERWRITES)),
        }
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
