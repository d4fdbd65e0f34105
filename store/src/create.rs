//! The first primitive: create-if-absent.
use bytes::Bytes;
use object_store::PutMode;

use crate::{Error, Object, Operation, Store, Version, store::location};

/// What has the name now.
#[derive(Clone, Debug)]
pub enum Created {
    /// These bytes, whoever put them there.
    New(Version),
    /// Other bytes: somebody else was first, and what they wrote stands.
    Exists(Object),
}

impl Store {
    /// Puts an object if none has its name.
    ///
    /// After any answer that is not a plain success (it exists, a time-out, a 5xx) the object under the name is read,
    /// for the put may have taken effect all the same: these bytes are [`Created::New`], others [`Created::Exists`], and
    /// if there is none the put is tried again within the retry policy.
    pub async fn create(&self, path: &str, bytes: Bytes) -> Result<Created, Error> {
        let location = location(Operation::Create, path)?;
        let mut retry = self.retry(Operation::Create, path);
        loop {
            let put = self.requests().put_opts(&location, bytes.clone().into(), PutMode::Create.into()).await;
            let error = match put {
                Ok(done) => {
                    retry.done();
                    return Version::of(path, done.e_tag, done.version).map(Created::New);
                }
                Err(error) => error,
            };
            match self.get(path).await {
                Ok(Some(found)) if found.bytes == bytes => return Ok(Created::New(found.version)),
                Ok(Some(found)) => return Ok(Created::Exists(found)),
                Ok(None) => retry.pause(&error).await?,
                // What refused the put tells more than what refused the read.
                Err(Error::Permanent { .. } | Error::Unsupported { .. }) => return Err(retry.last(&error)),
                Err(unread) => return Err(unread),
            }
        }
    }
}
