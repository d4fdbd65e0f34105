//! Where a chain begins once its oldest objects have been deleted, and how nobody takes what is in a deleted slot for a link.
//!
//! A name that was deleted is free again: create-if-absent would give it to a writer that stood still since long before. So the
//! boundary is made durable *before* anything behind it is deleted, it only moves forward, and whoever creates or reads in a
//! chain looks at it *afterwards*:
//!
//! ```text
//! retention:  boundary := b ──────────► delete slots < b
//! writer:     boundary ≤ slot? ─► create ─► boundary ≤ slot still?  no: take it back, go on from the boundary
//! reader:                         read …  ─► boundary ≤ first slot still?  no: begin again at the boundary
//! ```
//!
//! The first look spares a stalled writer its creation. The second is the proof, which needs no clock: a slot that could be
//! filled because it had been deleted was deleted after its boundary was durable, so a look that comes after the creation
//! finds that boundary. Whatever is created behind a boundary is therefore taken back by its writer, or, if that one dies in
//! between, is an object that no reader ever reaches.
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Expected, Replaced, Store};

const FORMAT: u32 = 1;

/// A boundary of a chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Boundary {
    /// 1.
    pub format: u32,
    /// The first number that is kept: what lies before it has been deleted, or will be.
    pub to: u64,
    /// When it came to lie here.
    pub raised_at: DateTime<Utc>,
    /// What the chain's owner keeps with it.
    #[serde(flatten)]
    pub details: Map<String, Value>,
}

impl Boundary {
    /// Reads a boundary; `None` if nothing of the chain was ever given up.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it cannot be read: it is no advice.
    pub async fn read(store: &Store, path: &str) -> Result<Option<Self>, Error> {
        store.get(path).await?.map(|object| parse(path, &object.bytes)).transpose()
    }

    /// Moves the boundary forward, and returns the one that holds then. One that lies further is left as it is.
    pub async fn raise(
        store: &Store,
        path: &str,
        to: u64,
        details: Map<String, Value>,
        now: DateTime<Utc>,
    ) -> Result<Self, Error> {
        let raised = Self { format: FORMAT, to, raised_at: now, details };
        loop {
            let expected = match store.get(path).await? {
                None => Expected::Absent,
                Some(object) => {
                    let present = parse(path, &object.bytes)?;
                    if present.to >= to {
                        return Ok(present);
                    }
                    Expected::Version(object.version)
                }
            };
            if let Replaced::Done(_) = store.replace(path, raised.to_bytes(), expected).await? {
                return Ok(raised);
            }
        }
    }

    /// Writes down what has become of the objects behind this boundary, unless it has moved on.
    pub async fn note(&self, store: &Store, path: &str, key: &str, value: Value) -> Result<(), Error> {
        let Some(object) = store.get(path).await? else { return Ok(()) };
        let mut present = parse(path, &object.bytes)?;
        if present.to == self.to {
            present.details.insert(key.to_owned(), value);
            // A conflict is another's note; what it says is found out again.
            store.replace(path, present.to_bytes(), Expected::Version(object.version)).await?;
        }
        Ok(())
    }

    fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(self).expect("strings, integers and JSON values are always JSON").into()
    }
}

fn parse(path: &str, bytes: &Bytes) -> Result<Boundary, Error> {
    let boundary: Boundary = serde_json::from_slice(bytes).map_err(|error| Error::corrupt(path, error))?;
    if boundary.format > FORMAT {
        return Err(Error::corrupt(path, format!("it has format {}, this build knows {FORMAT}", boundary.format)));
    }
    Ok(boundary)
}

impl Store {
    /// Removes an object if it holds these bytes: what one has created where nothing may be.
    pub async fn take_back(&self, path: &str, bytes: &Bytes) -> Result<(), Error> {
        match self.get(path).await? {
            Some(found) if found.bytes == *bytes => self.delete(path).await,
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "raw/t~0/boundary.json";

    fn at(secs: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(secs, 0).unwrap()
    }

    async fn raise(store: &Store, to: u64, secs: i64) -> Boundary {
        Boundary::raise(store, PATH, to, Map::new(), at(secs)).await.unwrap()
    }

    #[tokio::test]
    async fn a_boundary_only_moves_forward() {
        let store = Store::in_memory();
        assert_eq!(Boundary::read(&store, PATH).await.unwrap(), None);
        assert_eq!(raise(&store, 5, 1).await.to, 5);
        assert_eq!((raise(&store, 3, 2).await.to, raise(&store, 5, 3).await.raised_at), (5, at(1)));
        assert_eq!(raise(&store, 9, 4).await.raised_at, at(4));
        let boundary = Boundary::read(&store, PATH).await.unwrap().unwrap();
        boundary.note(&store, PATH, "deleted", 9.into()).await.unwrap();
        let noted = Boundary::read(&store, PATH).await.unwrap().unwrap();
        assert_eq!((noted.to, noted.raised_at, noted.details["deleted"].as_u64()), (9, at(4), Some(9)));
    }

    #[tokio::test]
    async fn a_boundary_that_cannot_be_read_is_an_error() {
        let store = Store::in_memory();
        store.put(PATH, "{}".into()).await.unwrap();
        assert!(matches!(Boundary::read(&store, PATH).await, Err(Error::Corrupt { .. })));
        store.put(PATH, r#"{"format":2,"to":1,"raised_at":"1970-01-01T00:00:00Z"}"#.into()).await.unwrap();
        assert!(matches!(Boundary::read(&store, PATH).await, Err(Error::Corrupt { .. })));
    }

    #[tokio::test]
    async fn only_ones_own_bytes_are_taken_back() {
        let store = Store::in_memory();
        store.put("a", "theirs".into()).await.unwrap();
        store.take_back("a", &"mine".into()).await.unwrap();
        assert!(store.get("a").await.unwrap().is_some());
        store.take_back("a", &"theirs".into()).await.unwrap();
        assert!(store.get("a").await.unwrap().is_none());
    }
}
