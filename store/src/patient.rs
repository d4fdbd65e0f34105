//! A wrapper that repeats reads, for those who read through the plain trait (DataFusion). Writes pass through as they
//! are: repeating them takes the care of `create.rs` and `replace.rs`.
use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, future::ready, stream, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};

use crate::{Operation, RetryPolicy, retry::Retry};

/// See the module.
#[derive(Debug)]
pub(crate) struct Patient {
    inner: Arc<dyn ObjectStore>,
    policy: RetryPolicy,
}

impl Patient {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }

    /// Opens an object. The bytes of a range are read inside the try, so that a connection which breaks in the middle is
    /// one more failure to repeat; ranges are what Parquet readers ask for, and of bounded size.
    async fn get_once(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let ranged = options.range.is_some() && !options.head;
        let mut result = self.inner.get_opts(location, options).await?;
        if ranged && matches!(result.payload, GetResultPayload::Stream(_)) {
            let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
            let bytes = result.bytes().await?;
            let payload = GetResultPayload::Stream(stream::once(ready(Ok(bytes))).boxed());
            result = GetResult { payload, meta, range, attributes };
        }
        Ok(result)
    }
}

/// Repeats `$attempt`, handing up the store's own last answer.
macro_rules! patiently {
    ($self:ident, $operation:expr, $path:expr, $attempt:expr) => {{
        let path: &str = $path;
        let mut retry = Retry::new($self.policy, $operation, path);
        loop {
            match $attempt.await {
                Ok(done) => {
                    retry.done();
                    break Ok(done);
                }
                // A pinned version that is gone stays gone.
                Err(error @ object_store::Error::Precondition { .. }) => break Err(error),
                Err(error) if retry.pause(&error).await.is_err() => break Err(error),
                Err(_) => {}
            }
        }
    }};
}

#[async_trait]
impl ObjectStore for Patient {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = Operation::of_get(&options);
        patiently!(self, operation, location.as_ref(), self.get_once(location, options.clone()))
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        patiently!(self, Operation::Get, location.as_ref(), self.inner.get_ranges(location, ranges))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        patiently!(
            self,
            Operation::List,
            prefix.map_or("", |prefix| prefix.as_ref()),
            self.inner.list_with_delimiter(prefix)
        )
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl std::fmt::Display for Patient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Patient({})", self.inner)
    }
}
