//! A folder on a disk as an object store that has both primitives, which object_store's own has not.
//!
//! * A **create** writes and syncs a staging file and hard-links it to the name: the link fails if the name is taken.
//! * A **replacement** takes a lock on a file of its own, compares the version, and renames the staging file to the name.
//! * Folders are synced after a link, a rename or a removal, so that a crash of the machine does not undo it.
//!
//! ```text
//! root/.staging/<uuid>     files being written; outside the tables, so that nobody who globs these sees half a file
//! root/.locks/<shard>      never renamed or removed: a lock on a file that someone replaces locks nothing
//! ```
//!
//! Reading is object_store's own. A version is inode, time of change and size, as there; see `disk.rs` for what makes
//! it differ after every replacement.
mod disk;

use std::{io, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::ready, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, local::LocalFileSystem, path::Path,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

use disk::Disk;

/// How many lock files there are. Fewer: writers of different objects wait for each other. More: more files.
const LOCK_SHARDS: u64 = 64;

/// A lock is held for a comparison and a rename; whoever waits this long waits for a process that is stopped.
const LOCK_WAIT: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct LocalStore {
    files: LocalFileSystem,
    disk: Arc<Disk>,
    /// Lets the tasks of this process wait for each other without holding threads; the lock files part processes.
    turns: Vec<Arc<Mutex<()>>>,
}

impl LocalStore {
    /// Opens a folder, which is made if it is not there, and removes what dead processes have left in its staging.
    pub(crate) fn open(root: &std::path::Path) -> Result<Self, Cause> {
        let root = std::path::absolute(root)?;
        disk::make_folders(&root)?;
        let root = root.canonicalize()?;
        let files = LocalFileSystem::new_with_prefix(&root)?;
        let disk = Arc::new(Disk::new(root));
        disk.clear_stale_staging();
        let turns = (0..LOCK_SHARDS).map(|_| Arc::default()).collect();
        Ok(Self { files, disk, turns })
    }

    async fn turn(&self, location: &Path) -> Result<(u64, OwnedMutexGuard<()>)> {
        let shard = xxhash_rust::xxh3::xxh3_64(location.as_ref().as_bytes()) % LOCK_SHARDS;
        let turn = Arc::clone(&self.turns[shard as usize]).lock_owned();
        match tokio::time::timeout(LOCK_WAIT, turn).await {
            Ok(turn) => Ok((shard, turn)),
            Err(_) => Err(answer(location, io::ErrorKind::TimedOut.into())),
        }
    }

    async fn replace(&self, location: &Path, payload: PutPayload, expected: Option<String>) -> Result<PutResult> {
        let name = self.files.path_to_filesystem(location)?;
        let disk = Arc::clone(&self.disk);
        // Written before the lock is asked for, which others wait for.
        let staged = blocking(location, move || disk.stage(&payload)).await?;
        let (shard, turn) = self.turn(location).await?;
        let disk = Arc::clone(&self.disk);
        let replaced = blocking(location, move || {
            let _turn = turn; // moved here: it must outlast this request's task, should that be dropped
            disk.replace(staged, &name, expected.as_deref(), shard, LOCK_WAIT)
        });
        match replaced.await? {
            disk::Replaced::Done(e_tag) => Ok(PutResult { e_tag: Some(e_tag), version: None }),
            disk::Replaced::Conflict => {
                let source = "another version has the name".into();
                Err(Error::Precondition { path: location.to_string(), source })
            }
        }
    }

    async fn create(&self, location: &Path, payload: PutPayload) -> Result<PutResult> {
        let name = self.files.path_to_filesystem(location)?;
        let disk = Arc::clone(&self.disk);
        let e_tag = blocking(location, move || disk.create(&payload, &name)).await?;
        Ok(PutResult { e_tag: Some(e_tag), version: None })
    }

    async fn remove(&self, location: Path) -> Result<Path> {
        let name = self.files.path_to_filesystem(&location)?;
        let (shard, turn) = self.turn(&location).await?;
        let disk = Arc::clone(&self.disk);
        let removed = blocking(&location, move || {
            let _turn = turn;
            disk.remove(&name, shard, LOCK_WAIT)
        });
        removed.await?;
        Ok(location)
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(
    location: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await?.map_err(|error| answer(location, error))
}

/// A file error as the trait speaks of it.
fn answer(location: &Path, error: io::Error) -> Error {
    let path = location.to_string();
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound { path, source: error.into() },
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path, source: error.into() },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Error::PermissionDenied { path, source: error.into() }
        }
        io::ErrorKind::Unsupported => Error::NotSupported { source: error.into() },
        _ => Error::Generic { store: "local disk", source: error.into() },
    }
}

/// Whether a listed name is the store's own scaffolding.
fn is_scaffold(path: &Path) -> bool {
    path.parts().next().is_some_and(|first| [disk::STAGING, disk::LOCKS].contains(&first.as_ref()))
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match options.mode {
            PutMode::Create => self.create(location, payload).await,
            PutMode::Overwrite => self.replace(location, payload, None).await,
            PutMode::Update(version) => {
                let missing =
                    || answer(location, io::Error::new(io::ErrorKind::InvalidInput, "an update needs an ETag"));
                self.replace(location, payload, Some(version.e_tag.ok_or_else(missing)?)).await
            }
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(self.not_offered("a multipart upload, which can be neither created if absent nor replaced if unchanged"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.files.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = Arc::new(self.clone());
        let removed = locations.then(move |location| {
            let this = Arc::clone(&this);
            async move { this.remove(location?).await }
        });
        removed.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix).try_filter(|meta| ready(!is_scaffold(&meta.location))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listing = self.files.list_with_delimiter(prefix).await?;
        listing.common_prefixes.retain(|folder| !is_scaffold(folder));
        Ok(listing)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(self.not_offered("a copy, which would pass by the locks"))
    }
}

impl LocalStore {
    fn not_offered(&self, operation: &str) -> Error {
        Error::NotImplemented { operation: operation.into(), implementer: self.to_string() }
    }
}

impl std::fmt::Display for LocalStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalStore({})", self.disk.root().display())
    }
}
