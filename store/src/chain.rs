//! Chains: sequences of objects in which each one's successor has a name that can be computed from it.
//!
//! Appending is a create, and finding news is one read that answers "not found": nothing lists a folder that grows with
//! history. Of two writers of one slot the store picks the winner; the loser gets the winner's object and goes on from
//! there, so any number of live writers leave one gap-free sequence (C1, C3).
use bytes::Bytes;

use crate::{Created, Error, Object, Store};

/// A chain whose objects are named `<prefix>/<number, 20 digits><suffix>`, so that names sort as numbers do.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Where it lies.
    pub store: Store,
    /// Its folder.
    pub prefix: String,
    /// What follows the number, `.json` say.
    pub suffix: String,
}

/// Who has the slot.
#[derive(Clone, Debug)]
pub enum Appended {
    /// The bytes that were to be appended, whoever wrote them.
    Mine,
    /// Other bytes: they are the truth, and the writer goes on from their end.
    Theirs(Object),
}

impl Chain {
    /// A chain in a folder.
    pub fn new(store: Store, prefix: impl Into<String>, suffix: impl Into<String>) -> Self {
        Self { store, prefix: prefix.into(), suffix: suffix.into() }
    }

    /// The name of the object with number `n`.
    pub fn slot(&self, n: u64) -> String {
        format!("{}/{n:020}{}", self.prefix, self.suffix)
    }

    /// The object with number `n`, if it has been written.
    pub async fn read(&self, n: u64) -> Result<Option<Object>, Error> {
        self.store.get(&self.slot(n)).await
    }

    /// Writes number `n`, or learns who has.
    pub async fn append(&self, n: u64, bytes: Bytes) -> Result<Appended, Error> {
        Ok(match self.store.create(&self.slot(n), bytes).await? {
            Created::New(_) => Appended::Mine,
            Created::Exists(theirs) => Appended::Theirs(theirs),
        })
    }

    /// The first free number, found by walking from `from`, a number that is proven to be a boundary. `next` tells an
    /// object's successor. Every object on the way is read whole, so `from` had better be near the end.
    ///
    /// An error loses the walk. Each object that `next` sees proves another boundary, so a caller that must get through
    /// a long chain on a store that is often away notes them there and begins again from the last.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if an object names itself or an earlier one as its successor.
    pub async fn find_tail(&self, from: u64, next: impl Fn(&Object) -> Result<u64, Error>) -> Result<u64, Error> {
        let mut at = from;
        while let Some(object) = self.read(at).await? {
            let successor = next(&object)?;
            if successor <= at {
                return Err(Error::corrupt(self.slot(at), format!("it names {successor} as its successor")));
            }
            at = successor;
        }
        Ok(at)
    }
}
