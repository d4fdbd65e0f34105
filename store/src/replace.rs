//! The second primitive: replace-if.
use bytes::Bytes;
use object_store::{Error as Answer, PutMode};

use crate::{Created, Error, Object, Operation, Store, Version, store::location};

/// What must have the name for a replacement to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No object.
    Absent,
    /// An object of this version.
    Version(Version),
}

/// What became of a replacement.
#[derive(Clone, Debug)]
pub enum Replaced {
    /// The new bytes have the name.
    Done(Version),
    /// Something else has it: what was read before is out of date. `None`: nothing has.
    Conflict(Option<Object>),
}

impl Store {
    /// Puts an object if the present one is still what `expected` says.
    ///
    /// A plain "it has another version" is a [`Replaced::Conflict`], even if the other version holds the same bytes: of
    /// two writers that both count from 5 to 6, one has to count again. An ambiguous answer (a time-out, a 5xx) is resolved
    /// by reading: these bytes are [`Replaced::Done`], the expected version is put again, anything else is a conflict.
    ///
    /// In that last case one's own bytes may have been there for a moment and been built upon. Content that is the same
    /// when it is applied twice (a set, a highest revision) does not mind; a bare counter would.
    pub async fn replace(&self, path: &str, bytes: Bytes, expected: Expected) -> Result<Replaced, Error> {
        let expected = match expected {
            Expected::Version(version) => version,
            Expected::Absent => {
                return Ok(match self.create(path, bytes).await? {
                    Created::New(version) => Replaced::Done(version),
                    Created::Exists(found) => Replaced::Conflict(Some(found)),
                });
            }
        };
        let location = location(Operation::Replace, path)?;
        let mut retry = self.retry(Operation::Replace, path);
        let mut may_have_happened = false;
        loop {
            let mode = PutMode::Update(expected.to_update());
            let error = match self.requests().put_opts(&location, bytes.clone().into(), mode.into()).await {
                Ok(done) => {
                    retry.done();
                    return Version::of(path, done.e_tag, done.version).map(Replaced::Done);
                }
                Err(error) => error,
            };
            let refused = matches!(error, Answer::Precondition { .. } | Answer::NotFound { .. });
            may_have_happened |= !refused && !matches!(error, Answer::AlreadyExists { .. });
            match self.get(path).await {
                Ok(Some(found)) if may_have_happened && found.bytes == bytes => {
                    return Ok(Replaced::Done(found.version));
                }
                // The put has not happened: it failed on the way, or lost against another one that was undone (409).
                Ok(Some(found)) if !refused && found.version == expected => retry.pause(&error).await?,
                Ok(found) => return Ok(Replaced::Conflict(found)),
                Err(Error::Permanent { .. } | Error::Unsupported { .. }) => return Err(retry.last(&error)),
                Err(unread) => return Err(unread),
            }
        }
    }
}
