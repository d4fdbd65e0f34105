//! The handle that everything above holds: reading, overwriting, removing and listing. The two primitives have their
//! own files, `create.rs` and `replace.rs`.
use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    Error as Answer, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, memory::InMemory, path::Path,
};

use crate::{
    Error, FaultPlan, Listed, Meta, Object, Operation, RetryPolicy, Version, failing::Failing, metered::Metered,
    patient::Patient, retry::Retry,
};

/// A store of objects under one root. Cheap to clone; all clones share one connection pool.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    url: String,
    /// The store itself. It never retries by itself: an answer to the second of two puts says nothing of the first.
    backend: Arc<dyn ObjectStore>,
    /// The same, counted.
    requests: Arc<dyn ObjectStore>,
    retry: RetryPolicy,
}

impl Store {
    /// A store in this process's memory; each call makes another.
    pub fn in_memory() -> Self {
        Self::over("memory://", Arc::new(InMemory::new()))
    }

    /// A store over any implementation of the trait that does not retry by itself.
    ///
    /// Instruments are taken from the global meter provider here, so set that up first.
    pub fn over(url: impl Into<String>, backend: Arc<dyn ObjectStore>) -> Self {
        Self::assemble(url.into(), backend, RetryPolicy::default())
    }

    /// The failing twin: the same objects, seen through requests that go wrong as planned.
    #[must_use]
    pub fn with_faults(self, plan: FaultPlan) -> Self {
        let backend = Arc::new(Failing::new(Arc::clone(&self.inner.backend), plan));
        Self::assemble(self.inner.url.clone(), backend, self.inner.retry)
    }

    /// The same store, asked with more or less patience.
    #[must_use]
    pub fn with_retry(self, retry: RetryPolicy) -> Self {
        Self::assemble(self.inner.url.clone(), Arc::clone(&self.inner.backend), retry)
    }

    fn assemble(url: String, backend: Arc<dyn ObjectStore>, retry: RetryPolicy) -> Self {
        let requests = Arc::new(Metered::new(Arc::clone(&backend)));
        Self { inner: Arc::new(Inner { url, backend, requests, retry }) }
    }

    /// Where the store is, as it was opened.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// The store as DataFusion takes it: names from the root, requests counted, reads repeated when they fail.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::new(Patient::new(Arc::clone(&self.inner.requests), self.inner.retry))
    }

    /// Reads an object; `None` if there is none.
    pub async fn get(&self, path: &str) -> Result<Option<Object>, Error> {
        let location = location(Operation::Get, path)?;
        let mut retry = self.retry(Operation::Get, path);
        loop {
            let error = match self.get_once(&location).await {
                Ok((bytes, meta)) => {
                    retry.done();
                    return Ok(Some(Object { bytes, version: meta.version, last_modified: meta.last_modified }));
                }
                Err(Failure::Answer(Answer::NotFound { .. })) => return Ok(None),
                Err(Failure::Answer(error)) => error,
                Err(Failure::Verdict(error)) => return Err(error),
            };
            retry.pause(&error).await?;
        }
    }

    async fn get_once(&self, location: &Path) -> Result<(Bytes, Meta), Failure> {
        let result = self.requests().get_opts(location, GetOptions::new()).await?;
        let meta = Meta::of(result.meta.clone()).map_err(Failure::Verdict)?;
        Ok((result.bytes().await?, meta))
    }

    /// Reads a part of an object, of the very version `pin` if one is given.
    ///
    /// # Errors
    /// [`Error::Changed`] if another version, or none, has the name now; [`Error::Corrupt`] if the object ends before the range.
    pub async fn get_range(&self, path: &str, range: Range<u64>, pin: Option<&Version>) -> Result<Bytes, Error> {
        let location = location(Operation::Get, path)?;
        if range.is_empty() {
            return Ok(Bytes::new()); // stores answer an empty range with an error
        }
        let mut retry = self.retry(Operation::Get, path);
        loop {
            let options = GetOptions::new().with_range(Some(range.clone())).with_if_match(pin.map(Version::etag));
            let error = match self.range_once(&location, options).await {
                Ok(bytes) if bytes.len() as u64 == range.end - range.start => {
                    retry.done();
                    return Ok(bytes);
                }
                Ok(bytes) => {
                    let reason = format!("it has {} bytes of the range {range:?}", bytes.len());
                    return Err(Error::corrupt(path, reason));
                }
                Err(Answer::Precondition { .. }) => return Err(Error::Changed { path: path.into() }),
                Err(Answer::NotFound { .. }) if pin.is_some() => return Err(Error::Changed { path: path.into() }),
                Err(error) => error,
            };
            retry.pause(&error).await?;
        }
    }

    async fn range_once(&self, location: &Path, options: GetOptions) -> Result<Bytes, Answer> {
        self.requests().get_opts(location, options).await?.bytes().await
    }

    /// An object's size and version; `None` if there is none.
    pub async fn head(&self, path: &str) -> Result<Option<Meta>, Error> {
        let location = location(Operation::Head, path)?;
        let mut retry = self.retry(Operation::Head, path);
        loop {
            match self.requests().head(&location).await {
                Ok(meta) => {
                    retry.done();
                    return Meta::of(meta).map(Some);
                }
                Err(Answer::NotFound { .. }) => return Ok(None),
                Err(error) => retry.pause(&error).await?,
            }
        }
    }

    /// Puts an object whatever is there: only for objects that are advice, for the last writer wins.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<(), Error> {
        let location = location(Operation::Put, path)?;
        let mut retry = self.retry(Operation::Put, path);
        loop {
            let options = PutOptions::from(PutMode::Overwrite);
            match self.requests().put_opts(&location, bytes.clone().into(), options).await {
                Ok(_) => {
                    retry.done();
                    return Ok(());
                }
                Err(error) => retry.pause(&error).await?,
            }
        }
    }

    /// Removes an object; that there is none is fine.
    pub async fn delete(&self, path: &str) -> Result<(), Error> {
        let location = location(Operation::Delete, path)?;
        let mut retry = self.retry(Operation::Delete, path);
        loop {
            match self.requests().delete(&location).await {
                Ok(()) | Err(Answer::NotFound { .. }) => {
                    retry.done();
                    return Ok(());
                }
                Err(error) => retry.pause(&error).await?,
            }
        }
    }

    /// Every object below the folder `prefix`, sorted by name. Only for folders that do not grow with history, and for
    /// what a user asked for.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>, Error> {
        let location = location(Operation::List, prefix)?;
        let mut retry = self.retry(Operation::List, prefix);
        loop {
            match self.requests().list(Some(&location)).map_ok(Listed::from).try_collect::<Vec<_>>().await {
                Ok(mut listed) => {
                    retry.done();
                    listed.sort_by(|a, b| a.path.cmp(&b.path));
                    return Ok(listed);
                }
                Err(error) => retry.pause(&error).await?,
            }
        }
    }

    /// The names of the folders right below `prefix`, sorted. On a local disk a folder outlives its last object.
    pub async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let location = location(Operation::List, prefix)?;
        let mut retry = self.retry(Operation::List, prefix);
        loop {
            match self.requests().list_with_delimiter(Some(&location)).await {
                Ok(listing) => {
                    retry.done();
                    let names = listing.common_prefixes.iter().filter_map(|folder| folder.filename());
                    let mut names: Vec<String> = names.map(str::to_owned).collect();
                    names.sort();
                    return Ok(names);
                }
                Err(error) => retry.pause(&error).await?,
            }
        }
    }

    pub(crate) fn requests(&self) -> &dyn ObjectStore {
        self.inner.requests.as_ref()
    }

    pub(crate) fn retry<'a>(&self, operation: Operation, path: &'a str) -> Retry<'a> {
        Retry::new(self.inner.retry, operation, path)
    }
}

/// The name as object_store takes it. Its parts are encoded already, so `%` must not be encoded once more.
pub(crate) fn location(operation: Operation, path: &str) -> Result<Path, Error> {
    Path::parse(path).map_err(|error| Error::last(&error.into(), operation, path, 1, std::time::Duration::ZERO))
}

/// A try that failed: with an answer that may be worth another try, or for good.
enum Failure {
    Answer(Answer),
    Verdict(Error),
}

impl From<Answer> for Failure {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}
