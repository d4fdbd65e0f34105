//! The only place that builds DataFusion sessions over the store.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::MemoryCatalogProviderList;
use datafusion::datasource::MemTable;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::execution::memory_pool::{FairSpillPool, GreedyMemoryPool, MemoryPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use driftline_store::Store;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use crate::window::columns::is_text;
use crate::{Error, udaf};

/// Where the store's root is mounted in a session.
const MOUNT: &str = "driftline://store/";
/// Where a file that is no part of the store is.
const FILE_MOUNT: &str = "driftline-file://file/";
/// Bytes of a query's memory for each partition at the least: beside it lies what a partition reads at once, a row group of all columns, of
/// which nobody counts the bytes. Fewer partitions are slower, more take more than they were given.
const PARTITION_BYTES: usize = 100_000_000;
/// Footers of one table that are read at a time.
const FOOTERS_AT_ONCE: usize = 16;

/// Makes sessions over one store.
#[derive(Clone)]
pub struct Sessions {
    store: Store,
    memory_bytes: usize,
    partitions: usize,
    /// As many as there are cores, whatever the memory.
    most_partitions: usize,
    template: Arc<OnceLock<SessionContext>>,
}

impl Sessions {
    /// Sessions that use at most `memory_bytes` for one query, in so many partitions, or in fewer if there is little memory.
    pub fn new(store: Store, memory_bytes: usize, partitions: usize) -> Self {
        let most_partitions = partitions;
        let partitions = partitions.min(memory_bytes / PARTITION_BYTES).max(1);
        Self { store, memory_bytes, partitions, most_partitions, template: Arc::default() }
    }

    /// The store.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// A session that sees one version of each object: what it has once looked at is pinned by its ETag.
    pub fn open(&self) -> Result<SessionContext, Error> {
        self.open_with(Arc::new(FairSpillPool::new(self.memory_bytes)))
    }

    /// The same, whose memory goes to whoever asks first: for a query of many operators of which few hold anything. Its joins are in as many
    /// partitions as there are cores: in one, DataFusion holds the whole of a side instead of what its partition needs.
    pub(crate) fn open_greedy(&self) -> Result<SessionContext, Error> {
        let session = self.open_with(Arc::new(GreedyMemoryPool::new(self.memory_bytes)))?;
        session.state_ref().write().config_mut().options_mut().execution.target_partitions = self.most_partitions;
        Ok(session)
    }

    fn open_with(&self, memory: Arc<dyn MemoryPool>) -> Result<SessionContext, Error> {
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(memory).build_arc()?;
        // Building all functions anew costs more than judging a small window: sessions share them, and nothing else.
        let template = self.template();
        let state = SessionStateBuilder::new_from_existing(template.state())
            .with_config(template.copied_config().with_create_default_catalog_and_schema(true))
            .with_catalog_list(Arc::new(MemoryCatalogProviderList::new()))
            .with_runtime_env(runtime)
            .build();
        let session = SessionContext::new_with_state(state);
        let url = url::Url::parse(MOUNT).expect("a constant URL");
        session.register_object_store(&url, Arc::new(Pinned::new(self.store.object_store())));
        Ok(session)
    }

    fn template(&self) -> &SessionContext {
        self.template.get_or_init(|| {
            let config = SessionConfig::new()
                .with_target_partitions(self.partitions)
                .with_information_schema(true)
                .set_bool("datafusion.execution.parquet.pushdown_filters", true)
                .set_bool("datafusion.execution.collect_statistics", false);
            let session = SessionContext::new_with_config(config);
            udaf::register(&session);
            session
        })
    }

    /// A session that keeps nothing in memory bounds and mounts no store: for tables that the caller brings.
    pub fn detached(memory_bytes: usize, partitions: usize) -> Result<SessionContext, Error> {
        Self::new(Store::in_memory(), memory_bytes, partitions).open()
    }
}

/// Registers objects of the store as one table; their schemas are joined by column name.
pub async fn register_objects(session: &SessionContext, table: &str, paths: &[String]) -> Result<(), Error> {
    let urls = paths.iter().map(|path| mounted(path)).collect::<Result<Vec<_>, _>>()?;
    register(session, table, urls, Vec::new(), ".parquet").await
}

/// Registers a Parquet file on this machine's disk as a table. It is read where it lies; another file under its name fails a query.
pub async fn register_file(session: &SessionContext, table: &str, path: &std::path::Path) -> Result<(), Error> {
    let path = Path::from_filesystem_path(path).map_err(object_store::Error::from);
    let path = path.map_err(datafusion::error::DataFusionError::from)?;
    register_single(session, table, Arc::new(LocalFileSystem::new()), &path).await
}

/// Registers the bytes of a Parquet file as a table.
pub async fn register_bytes(session: &SessionContext, table: &str, bytes: Bytes) -> Result<(), Error> {
    let (store, path) = (InMemory::new(), Path::from("bytes.parquet"));
    store.put(&path, bytes.into()).await.map_err(datafusion::error::DataFusionError::from)?;
    register_single(session, table, Arc::new(store), &path).await
}

async fn register_single(
    session: &SessionContext,
    table: &str,
    store: Arc<dyn ObjectStore>,
    path: &Path,
) -> Result<(), Error> {
    let mut url = url::Url::parse(FILE_MOUNT).expect("a constant URL");
    session.register_object_store(&url, Arc::new(Pinned::new(store)));
    if let Ok(mut segments) = url.path_segments_mut() {
        // Whatever means something in a URL is part of a name here.
        segments.clear().extend(path.parts().map(|part| part.as_ref().to_owned()));
    }
    register(session, table, vec![ListingTableUrl::try_new(url, None)?], Vec::new(), "").await
}

/// Reads a table of few rows into memory. A window is asked a dozen questions: each would open its objects anew, and share few rows
/// among partitions, which takes longer than to answer it.
pub async fn hold(session: &SessionContext, table: &str) -> Result<(), Error> {
    {
        let state = session.state_ref();
        let mut state = state.write();
        let options = state.config_mut().options_mut();
        options.execution.target_partitions = 1;
        // What a second look at a plan would better is less than what it takes.
        options.optimizer.max_passes = 1;
    }
    let frame = session.table(table).await?;
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let rows = frame.collect().await?;
    session.deregister_table(table)?;
    session.register_table(table, Arc::new(MemTable::try_new(schema, vec![rows])?))?;
    Ok(())
}

/// Registers all Parquet objects below a folder as one table, with the folder's `key=value` parts as columns.
///
/// # Returns
/// Whether there are any.
pub async fn register_folder(
    session: &SessionContext,
    table: &str,
    folder: &str,
    partitions: &[&str],
) -> Result<bool, Error> {
    let url = mounted(&format!("{folder}/"))?;
    let store = session.runtime_env().object_store(&url)?;
    let prefix =
        Path::parse(folder).map_err(object_store::Error::from).map_err(datafusion::error::DataFusionError::from)?;
    let mut objects: Vec<ObjectMeta> =
        store.list(Some(&prefix)).try_collect().await.map_err(datafusion::error::DataFusionError::from)?;
    objects.retain(|meta| meta.location.as_ref().ends_with(".parquet"));
    if objects.is_empty() {
        return Ok(false);
    }
    let options = options(partitions.iter().map(ToString::to_string).collect(), ".parquet");
    // DataFusion would have the columns of all objects agree before anybody can say how; what was listed need not be asked for again.
    let state = Arc::new(session.state());
    let infer = |meta: ObjectMeta| {
        let (format, state, store) = (Arc::clone(&options.format), Arc::clone(&state), Arc::clone(&store));
        async move { format.infer_schema(state.as_ref(), &store, &[meta]).await }
    };
    let schemas: Vec<_> = stream::iter(objects).map(infer).buffered(FOOTERS_AT_ONCE).try_collect().await?;
    register_as(session, table, vec![url], options, schemas)?;
    Ok(true)
}

async fn register(
    session: &SessionContext,
    table: &str,
    urls: Vec<ListingTableUrl>,
    partitions: Vec<String>,
    extension: &str,
) -> Result<(), Error> {
    let options = options(partitions, extension);
    // DataFusion infers a schema from the first URL alone; another object may have columns that the first lacks.
    let state = Arc::new(session.state());
    let infer = |url: ListingTableUrl| {
        let (options, state) = (options.clone(), Arc::clone(&state));
        async move { options.infer_schema(state.as_ref(), &url).await }
    };
    let schemas: Vec<_> = stream::iter(urls.clone()).map(infer).buffered(FOOTERS_AT_ONCE).try_collect().await?;
    register_as(session, table, urls, options, schemas)
}

fn options(partitions: Vec<String>, extension: &str) -> ListingOptions {
    let kind = |name: &str| if name == "date" { DataType::Date32 } else { DataType::Utf8 };
    let columns = partitions.into_iter().map(|name| (name.clone(), kind(&name))).collect();
    ListingOptions::new(Arc::new(ParquetFormat::default()))
        .with_file_extension(extension)
        .with_table_partition_cols(columns)
}

/// Registers objects, or the folders in which they lie, with the columns of all of them.
fn register_as(
    session: &SessionContext,
    table: &str,
    urls: Vec<ListingTableUrl>,
    options: ListingOptions,
    mut schemas: Vec<SchemaRef>,
) -> Result<(), Error> {
    // Thousands of objects have a few different ones.
    let mut seen = HashSet::new();
    schemas.retain(|schema| seen.insert(Arc::clone(schema)));
    let schema = together(&schemas).map_err(datafusion::error::DataFusionError::from)?;
    let config = ListingTableConfig::new_with_multi_paths(urls).with_listing_options(options);
    session.register_table(table, Arc::new(ListingTable::try_new(config.with_schema(Arc::new(schema)))?))?;
    Ok(())
}

/// The columns of all objects; one that some object lacks is null there. One that is text in some object and a number in another (a text feature `x`, and
/// a number `x_text`, are both `feature_x_text`) is read as text.
fn together(schemas: &[SchemaRef]) -> Result<Schema, ArrowError> {
    let mut texts: BTreeMap<&str, &DataType> = BTreeMap::new();
    for field in schemas.iter().flat_map(|schema| schema.fields()).filter(|field| is_text(field.data_type())) {
        texts.insert(field.name(), field.data_type());
    }
    let as_text = |field: &FieldRef| match texts.get(field.name().as_str()) {
        Some(kind) if field.data_type().is_numeric() => {
            Arc::new(Field::clone(field).with_data_type(DataType::clone(kind)))
        }
        _ => Arc::clone(field),
    };
    let agreed = schemas.iter().map(|schema| {
        let fields: Vec<FieldRef> = schema.fields().iter().map(as_text).collect();
        Schema::new_with_metadata(fields, schema.metadata().clone())
    });
    let all = Schema::try_merge(agreed)?;
    let is_everywhere = |field: &Field| schemas.iter().all(|schema| schema.index_of(field.name()).is_ok());
    let nullable = |field: &FieldRef| {
        if is_everywhere(field) { Arc::clone(field) } else { Arc::new(Field::clone(field).with_nullable(true)) }
    };
    Ok(Schema::new_with_metadata(all.fields().iter().map(nullable).collect::<Vec<_>>(), all.metadata().clone()))
}

/// The URL of a path; its percent signs are part of the name.
fn mounted(path: &str) -> Result<ListingTableUrl, Error> {
    Ok(ListingTableUrl::parse(format!("{MOUNT}{}", path.replace('%', "%25")))?)
}

/// What the error of a read says that met a replacement: a new session sees the new version.
pub const REPLACED: &str = "the object was replaced while it was being read";

/// An object store whose objects do not change under a reader: the first version seen is asked for ever after, and a
/// read of another fails instead of mixing two.
///
/// DataFusion takes an object's size from the listing and finds the footer by it, so a version of another size than was
/// listed counts as another too. (Not by the listing's ETag: some stores spell it differently there.)
#[derive(Debug)]
struct Pinned {
    inner: Arc<dyn ObjectStore>,
    etags: Mutex<HashMap<Path, Option<String>>>,
    sizes: Arc<Mutex<HashMap<Path, u64>>>,
}

impl Pinned {
    fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, etags: Mutex::default(), sizes: Arc::default() }
    }

    fn pin(&self, path: &Path, etag: Option<String>) {
        self.etags.lock().unwrap_or_else(PoisonError::into_inner).entry(path.clone()).or_insert(etag);
    }

    fn pinned(&self, path: &Path) -> Option<String> {
        self.etags.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned().flatten()
    }
}

fn replaced(path: String) -> object_store::Error {
    object_store::Error::Precondition { path, source: REPLACED.into() }
}

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pinned {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Pinned {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, mut options: GetOptions) -> object_store::Result<GetResult> {
        if options.if_match.is_none() {
            options.if_match = self.pinned(path);
        }
        let listed = self.sizes.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied();
        let mut result = match self.inner.get_opts(path, options).await {
            Ok(result) => result,
            Err(object_store::Error::Precondition { path, .. }) => return Err(replaced(path)),
            // It was there when it was listed, or read before: it is deleted by now, and a new session does not list it.
            Err(object_store::Error::NotFound { .. }) if listed.is_some() || self.pinned(path).is_some() => {
                return Err(replaced(path.to_string()));
            }
            // A shorter version has no such range: each store says that in words of its own.
            Err(error) => {
                let options = GetOptions { head: true, ..GetOptions::default() };
                let now = self.inner.get_opts(path, options).await;
                let is_other = now.is_ok_and(|now| listed.is_some_and(|size| size != now.meta.size));
                return Err(if is_other { replaced(path.to_string()) } else { error });
            }
        };
        if listed.is_some_and(|size| size != result.meta.size) {
            return Err(replaced(path.to_string()));
        }
        self.pin(path, result.meta.e_tag.clone());
        // A store that is rooted at a prefix answers with the whole name; DataFusion compares it with what it asked for.
        result.meta.location = path.clone();
        Ok(result)
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        let read = async |range: Range<u64>| {
            let options = GetOptions { range: Some(range.into()), ..GetOptions::default() };
            self.get_opts(path, options).await?.bytes().await
        };
        object_store::coalesce_ranges(ranges, read, object_store::OBJECT_STORE_COALESCE_DEFAULT).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let sizes = Arc::clone(&self.sizes);
        let remember = move |meta: &ObjectMeta| {
            sizes.lock().unwrap_or_else(PoisonError::into_inner).insert(meta.location.clone(), meta.size);
        };
        self.inner.list(prefix).inspect_ok(remember).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn put(store: &InMemory, text: &'static str) {
        store.put(&Path::from("t/a"), text.into()).await.unwrap();
    }

    fn says_replaced<T: fmt::Debug>(result: object_store::Result<T>) {
        let error = result.expect_err("two versions were mixed").to_string();
        assert!(error.contains(REPLACED), "{error}");
    }

    #[tokio::test]
    async fn a_version_that_was_read_is_read_or_nothing_is() {
        let (inner, path) = (Arc::new(InMemory::new()), Path::from("t/a"));
        put(&inner, "first").await;
        let pinned = Pinned::new(inner.clone());
        for _ in 0..2 {
            assert_eq!(pinned.get_range(&path, 0..5).await.unwrap(), "first");
        }
        put(&inner, "other").await;
        says_replaced(pinned.get_range(&path, 0..5).await);
        says_replaced(pinned.get_ranges(&path, &[0..2, 3..5]).await);
        assert_eq!(Pinned::new(inner).get_ranges(&path, &[0..2, 3..5]).await.unwrap(), ["ot", "er"]);
    }

    #[tokio::test]
    async fn an_object_that_is_deleted_under_a_reader_was_replaced() {
        let (inner, path) = (Arc::new(InMemory::new()), Path::from("t/a"));
        put(&inner, "first").await;
        let listed = Pinned::new(inner.clone());
        listed.list(None).try_collect::<Vec<_>>().await.unwrap();
        let read = Pinned::new(inner.clone());
        read.get_range(&path, 0..5).await.unwrap();
        inner.delete(&path).await.unwrap();
        says_replaced(listed.get_range(&path, 0..5).await);
        says_replaced(read.get_range(&path, 0..5).await);
        assert!(matches!(Pinned::new(inner).get_range(&path, 0..5).await, Err(object_store::Error::NotFound { .. })));
    }

    #[tokio::test]
    async fn a_version_of_another_size_than_was_listed_is_not_read() {
        let (inner, path) = (Arc::new(InMemory::new()), Path::from("t/a"));
        put(&inner, "a long first version").await;
        let pinned = Pinned::new(inner.clone());
        let listed: Vec<ObjectMeta> = pinned.list(None).try_collect().await.unwrap();
        put(&inner, "a short one").await;
        says_replaced(pinned.get_range(&path, listed[0].size - 8..listed[0].size).await);
        says_replaced(pinned.get_ranges(&path, &[0..4]).await);
    }

    #[tokio::test]
    async fn columns_that_the_first_object_lacks_are_read_from_the_others() {
        let sessions = Sessions::new(Store::in_memory(), 64 << 20, 2);
        let session = sessions.open().unwrap();
        for (path, columns) in [("t/a", "1 AS x"), ("t/b", "2 AS x, 'late' AS y"), ("t/c", "3.5 AS z")] {
            let write = format!("COPY (SELECT {columns}) TO '{MOUNT}{path}.parquet' STORED AS PARQUET");
            session.sql(&write).await.unwrap().collect().await.unwrap();
        }
        let paths = ["t/a.parquet", "t/b.parquet", "t/c.parquet"].map(str::to_owned);
        register_objects(&session, "t", &paths).await.unwrap();
        let read = session.sql("SELECT count(x), max(y), max(z) FROM t").await.unwrap().collect().await.unwrap();
        let shown = arrow::util::pretty::pretty_format_batches(&read).unwrap().to_string();
        assert!(shown.contains("| 2          | late     | 3.5      |"), "{shown}");
    }

    #[tokio::test]
    async fn a_file_is_read_where_it_lies_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let write = async |path: &std::path::Path, row: i64| {
            let session = SessionContext::new();
            let rows = session.sql(&format!("SELECT {row} AS x")).await.unwrap().collect().await.unwrap();
            let file = std::fs::File::create(path).unwrap();
            let mut writer = parquet::arrow::ArrowWriter::try_new(file, rows[0].schema(), None).unwrap();
            writer.write(&rows[0]).unwrap();
            writer.close().unwrap();
        };
        let read = async |session: &SessionContext| -> Result<i64, Error> {
            let batches = session.sql("SELECT sum(x) AS x FROM t").await?.collect().await?;
            let column = batches[0].column(0);
            Ok(arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(column).value(0))
        };
        for name in ["a.parquet", "a b%20ü#?.parquet", "no-extension"] {
            let path = folder.path().join(name);
            write(&path, 7).await;
            let session = Sessions::detached(64 << 20, 2).unwrap();
            register_file(&session, "t", &path).await.unwrap();
            assert_eq!(read(&session).await.unwrap(), 7, "{name}");
            let session = Sessions::detached(64 << 20, 2).unwrap();
            register_bytes(&session, "t", std::fs::read(&path).unwrap().into()).await.unwrap();
            assert_eq!(read(&session).await.unwrap(), 7, "bytes of {name}");
        }
        // One that takes its place is another file.
        let (path, other) = (folder.path().join("a.parquet"), folder.path().join("other"));
        let session = Sessions::detached(64 << 20, 2).unwrap();
        register_file(&session, "t", &path).await.unwrap();
        assert_eq!(read(&session).await.unwrap(), 7);
        write(&other, 70_000).await;
        std::fs::rename(&other, &path).unwrap();
        let said = read(&session).await.expect_err("two files were mixed").with_causes();
        assert!(said.contains(REPLACED), "{said}");
    }

    #[tokio::test]
    async fn a_name_with_per_cent_signs_is_the_objects_own() {
        let store = Store::in_memory();
        let session = Sessions::new(store.clone(), 64 << 20, 2).open().unwrap();
        let write = format!("COPY (SELECT 7 AS x) TO '{MOUNT}t/plain.parquet' STORED AS PARQUET");
        session.sql(&write).await.unwrap().collect().await.unwrap();
        let bytes = store.get("t/plain.parquet").await.unwrap().unwrap().bytes;
        // Models' names are percent-encoded in the store.
        store.put("u/model_name=a%20b/x.parquet", bytes).await.unwrap();
        register_objects(&session, "named", &["u/model_name=a%20b/x.parquet".to_owned()]).await.unwrap();
        assert!(register_folder(&session, "folder", "u/model_name=a%20b", &[]).await.unwrap());
        for table in ["named", "folder"] {
            let read = session.sql(&format!("SELECT x FROM {table}")).await.unwrap().collect().await.unwrap();
            assert_eq!(read.iter().map(arrow::array::RecordBatch::num_rows).sum::<usize>(), 1, "{table}");
        }
    }
}
