//! A store that lacks a primitive is refused, and the refusal says which.
use std::sync::Arc;

use async_trait::async_trait;
use driftline_store::{Error, Fault, FaultPlan, Store};
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, local::LocalFileSystem, memory::InMemory,
    path::Path,
};

use crate::contract::quick;

/// Overwrites where it was told to create or to replace.
#[derive(Debug)]
struct Careless {
    inner: InMemory,
    ignores: fn(&PutMode) -> bool,
}

impl std::fmt::Display for Careless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Careless")
    }
}

#[async_trait]
impl ObjectStore for Careless {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        if (self.ignores)(&options.mode) {
            options.mode = PutMode::Overwrite;
        }
        self.inner.put_opts(location, payload, options).await
    }
    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Keeps every condition while one writer writes, for it looks first and writes later.
#[derive(Debug)]
struct Racy {
    inner: InMemory,
    races: fn(&PutMode) -> bool,
}

impl std::fmt::Display for Racy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Racy")
    }
}

#[async_trait]
impl ObjectStore for Racy {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        if (self.races)(&options.mode) {
            let found = self.inner.head(location).await.ok();
            let holds = match (&options.mode, &found) {
                (PutMode::Update(wanted), Some(found)) => wanted.e_tag == found.e_tag,
                (PutMode::Create, None) => true,
                _ => false,
            };
            if holds {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                options.mode = PutMode::Overwrite;
            }
        }
        self.inner.put_opts(location, payload, options).await
    }
    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

async fn check_refused(backend: Arc<dyn ObjectStore>, primitive: &str) {
    let store = Store::over("test://", backend);
    let error = store.probe().await.unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().starts_with(&format!("the store does not support {primitive}")), "{error}");
    assert!(store.list("").await.unwrap().is_empty(), "the probe leaves nothing behind");
}

#[tokio::test]
async fn a_store_that_overwrites_is_refused() {
    let careless = |ignores| Arc::new(Careless { inner: InMemory::new(), ignores });
    check_refused(careless(|mode| matches!(mode, PutMode::Create)), "create-if-absent").await;
    check_refused(careless(|mode| matches!(mode, PutMode::Update(_))), "replace-if").await;
    check_refused(careless(|_| true), "create-if-absent").await;
}

#[tokio::test]
async fn a_store_that_looks_first_and_writes_later_is_refused() {
    let racy = |races| Arc::new(Racy { inner: InMemory::new(), races });
    check_refused(racy(|mode| matches!(mode, PutMode::Create)), "create-if-absent").await;
    check_refused(racy(|mode| matches!(mode, PutMode::Update(_))), "replace-if").await;
}

#[tokio::test]
async fn a_store_that_says_it_cannot_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plain = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    check_refused(Arc::new(plain), "replace-if").await;
}

#[tokio::test]
async fn a_store_that_stumbles_is_not() {
    for seed in 0..20 {
        let plan = FaultPlan::new(seed).share(Fault::After, 0.2).share(Fault::Before, 0.1);
        Store::in_memory().with_retry(quick()).with_faults(plan).probe().await.unwrap();
    }
}
