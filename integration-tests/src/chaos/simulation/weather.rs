//! What stands between one member and the store: faults, freezes and death.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;

/// A member's view of the store.
#[derive(Debug)]
pub(super) struct Weather {
    inner: Arc<InMemory>,
    chance: Mutex<StdRng>,
    /// A share of the requests that fails.
    share: f64,
    /// From this request on the member reaches nobody, as the rest of the world sees a death; 0 is never.
    dies_at: u64,
    requests: AtomicU64,
    faults: Arc<AtomicU64>,
    /// While it is true, nothing happens: before a request takes effect, or after it.
    frozen: watch::Receiver<bool>,
}

/// What befalls one request.
enum Fate {
    Passes,
    FailsBefore,
    FailsAfter,
    Dies,
}

impl Weather {
    pub(super) fn new(
        inner: Arc<InMemory>,
        seed: u64,
        share: f64,
        dies_at: u64,
        faults: Arc<AtomicU64>,
        frozen: watch::Receiver<bool>,
    ) -> Self {
        let chance = Mutex::new(StdRng::seed_from_u64(seed));
        Self { inner, chance, share, dies_at, requests: AtomicU64::new(0), faults, frozen }
    }

    fn fate(&self) -> Fate {
        let nth = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
        if self.dies_at > 0 && nth >= self.dies_at {
            return Fate::Dies;
        }
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        if !chance.random_bool(self.share) {
            return Fate::Passes;
        }
        self.faults.fetch_add(1, Ordering::Relaxed);
        if chance.random_bool(0.5) { Fate::FailsBefore } else { Fate::FailsAfter }
    }

    /// Waits while the member is frozen.
    async fn thawed(&self) {
        let mut frozen = self.frozen.clone();
        // Without a sender nobody is frozen any more.
        let _gone = frozen.wait_for(|frozen| !frozen).await;
    }

    async fn pass<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        self.thawed().await;
        let answer = match self.fate() {
            Fate::Passes => request.await,
            Fate::FailsBefore => return Err(failed()),
            Fate::FailsAfter => {
                let _lost = request.await;
                Err(failed())
            }
            // Half of those who die have been heard before.
            Fate::Dies => {
                let is_heard = self.requests.load(Ordering::SeqCst) == self.dies_at && self.dies_at.is_multiple_of(2);
                if is_heard {
                    let _never_known = request.await;
                }
                return Err(failed());
            }
        };
        self.thawed().await;
        answer
    }
}

/// How a lost connection looks to the code above.
fn failed() -> Error {
    let source = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    Error::Generic { store: "weather", source: Box::new(source) }
}

#[async_trait]
impl ObjectStore for Weather {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.pass(self.inner.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.pass(self.inner.get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.pass(self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // The trait wants a stream that owns what it needs.
        let of_one = Arc::new(Self {
            inner: self.inner.clone(),
            chance: Mutex::new(StdRng::seed_from_u64(self.requests.load(Ordering::SeqCst))),
            share: self.share,
            dies_at: 0,
            requests: AtomicU64::new(0),
            faults: self.faults.clone(),
            frozen: self.frozen.clone(),
        });
        let deleted = locations.then(move |location| {
            let of_one = of_one.clone();
            async move {
                let location = location?;
                of_one.pass(of_one.inner.delete(&location)).await?;
                Ok(location)
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.pass(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl std::fmt::Display for Weather {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Weather")
    }
}

/// Patience of a member: little, so that it meets its own errors too.
pub(super) fn patience() -> driftline_store::RetryPolicy {
    driftline_store::RetryPolicy {
        max_elapsed: Duration::from_millis(15),
        base: Duration::from_millis(1),
        cap: Duration::from_millis(2),
    }
}
