//! Every interleaving of the requests that two or three tasks make to one store, run with the real code.
//!
//! Each task sees the store through a gate that lets one request through at a time. The tasks are polled by hand, so nothing
//! happens but what the schedule says, and a schedule can be run again. A task can be dropped between any two requests: that
//! is a process that dies there, or whose request arrives and whose answer does not.
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use driftline_store::{RetryPolicy, Store};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// Requests that a task may still make, and what it has seen so far.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    left: Arc<AtomicUsize>,
    seen: Arc<AtomicU64>,
}

impl Gate {
    /// Waits for leave, and notes the request together with what lies under the name that it is for.
    async fn pass(&self, what: &str, path: &Path, inner: &InMemory) {
        std::future::poll_fn(|_| {
            let taken = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if taken.is_ok() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let mut hasher = DefaultHasher::new();
        (self.seen.load(Ordering::SeqCst), what, path.as_ref()).hash(&mut hasher);
        if what == "list" {
            let below = path.as_ref();
            contents(inner)
                .await
                .into_iter()
                .filter(|(name, _)| name.starts_with(below))
                .for_each(|o| o.hash(&mut hasher));
        } else if let Ok(found) = inner.get(path).await {
            found.bytes().await.unwrap().hash(&mut hasher);
        }
        self.seen.store(hasher.finish(), Ordering::SeqCst);
    }
}

/// Everything in a store, in the order of its names.
async fn contents(inner: &InMemory) -> Vec<(String, bytes::Bytes)> {
    let mut contents = Vec::new();
    for meta in inner.list(None).try_collect::<Vec<_>>().await.unwrap() {
        let bytes = inner.get(&meta.location).await.unwrap().bytes().await.unwrap();
        contents.push((meta.location.to_string(), bytes));
    }
    contents.sort();
    contents
}

#[derive(Debug)]
struct Gated {
    inner: Arc<InMemory>,
    gate: Gate,
}

impl fmt::Display for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gated {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Gated {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.gate.pass("put", path, &self.inner).await;
        self.inner.put_opts(path, payload, options).await
    }
    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }
    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.gate.pass("get", path, &self.inner).await;
        self.inner.get_opts(path, options).await
    }
    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, gate) = (self.inner.clone(), self.gate.clone());
        let deleted = paths.then(move |path| {
            let (inner, gate) = (inner.clone(), gate.clone());
            async move {
                let path = path?;
                gate.pass("delete", &path, &inner).await;
                inner.delete(&path).await?;
                Ok(path)
            }
        });
        deleted.boxed()
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, gate, prefix) = (self.inner.clone(), self.gate.clone(), prefix.cloned().unwrap_or_default());
        let listed = async move {
            gate.pass("list", &prefix, &inner).await;
            inner.list(Some(&prefix))
        };
        futures::stream::once(listed).flatten().boxed()
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.gate.pass("list", prefix.unwrap_or(&Path::default()), &self.inner).await;
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A copy of everything in a store.
pub async fn copy(of: &InMemory) -> Arc<InMemory> {
    let copied = InMemory::new();
    for meta in of.list(None).try_collect::<Vec<_>>().await.unwrap() {
        let bytes = of.get(&meta.location).await.unwrap().bytes().await.unwrap();
        copied.put(&meta.location, bytes.into()).await.unwrap();
    }
    Arc::new(copied)
}

/// The store without a gate.
pub fn open(inner: &Arc<InMemory>) -> Store {
    Store::over("memory://", inner.clone())
}

pub type Task = Pin<Box<dyn Future<Output = ()>>>;
/// Makes a task that sees the store through its gate.
pub type Make<'a> = &'a dyn Fn(Store) -> Task;

/// More states than any test here leads through.
const STATES_MAX: usize = 20_000;

/// A step of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A task makes its next request, and goes on up to the one after.
    Go(usize),
    /// A task is dropped where it stands.
    Die(usize),
}

/// Where a schedule has led: the tasks that have not ended, by number, and a digest of all that can matter from there on:
/// what the store holds, what each task has seen, and which are at an end.
struct Reached {
    left: Vec<usize>,
    digest: u64,
}

/// Runs one schedule as far as it goes.
async fn run(inner: &Arc<InMemory>, tasks: &[Make<'_>], schedule: &[Step]) -> Reached {
    let gates: Vec<Gate> = tasks.iter().map(|_| Gate::default()).collect();
    let quick = RetryPolicy { base: Duration::ZERO, cap: Duration::ZERO, ..RetryPolicy::default() };
    let store = |gate: &Gate| {
        let gated = Arc::new(Gated { inner: inner.clone(), gate: gate.clone() });
        Store::over("memory://", gated).with_retry(quick)
    };
    let mut running: Vec<Option<Task>> = tasks.iter().zip(&gates).map(|(make, gate)| Some(make(store(gate)))).collect();
    let mut context = Context::from_waker(std::task::Waker::noop());
    let mut poll = |task: &mut Option<Task>| {
        if task.as_mut().is_some_and(|task| task.poll_unpin(&mut context).is_ready()) {
            *task = None;
        }
    };
    running.iter_mut().for_each(&mut poll);
    for step in schedule {
        match *step {
            Step::Die(task) => running[task] = None,
            Step::Go(task) => {
                gates[task].left.fetch_add(1, Ordering::SeqCst);
                poll(&mut running[task]);
                // It may pause before it asks again.
                while running[task].is_some() && gates[task].left.load(Ordering::SeqCst) > 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    poll(&mut running[task]);
                }
            }
        }
    }
    let mut hasher = DefaultHasher::new();
    contents(inner).await.hash(&mut hasher);
    for (task, gate) in running.iter().zip(&gates) {
        (task.is_some(), gate.seen.load(Ordering::SeqCst)).hash(&mut hasher);
    }
    schedule.iter().filter(|step| matches!(step, Step::Die(_))).count().hash(&mut hasher);
    Reached { left: (0..tasks.len()).filter(|task| running[*task].is_some()).collect(), digest: hasher.finish() }
}

/// Runs every schedule of the tasks, each on a copy of the store; task `mortal` may also die before any of its requests.
/// `check` looks at each outcome. Schedules that lead to the same store, with all tasks having seen the same, go on alike, and
/// are gone on with once.
///
/// # Returns
/// How many schedules there were, and how many states they have led through.
pub async fn every_schedule<F: Future<Output = ()>>(
    start: &InMemory,
    tasks: &[Make<'_>],
    mortal: Option<usize>,
    check: impl Fn(Arc<InMemory>, Vec<Step>) -> F,
) -> (u128, usize) {
    let (mut schedules, mut states) = (0, 0);
    // Step by step: a state, one schedule that leads to it, and how many do.
    let mut level: HashMap<u64, (Vec<Step>, u128)> = HashMap::from([(0, (Vec::new(), 1))]);
    while !level.is_empty() {
        let mut next: HashMap<u64, (Vec<Step>, u128)> = HashMap::new();
        states += level.len();
        assert!(
            states < STATES_MAX,
            "the schedules lead through more than {STATES_MAX} states: a task does not come to its end"
        );
        for (schedule, count) in level.into_values() {
            let inner = copy(start).await;
            let reached = run(&inner, tasks, &schedule).await;
            if reached.left.is_empty() {
                schedules += count;
                check(inner, schedule).await;
                continue;
            }
            for task in reached.left {
                let mut steps = vec![Step::Go(task)];
                if mortal == Some(task) {
                    steps.push(Step::Die(task));
                }
                for step in steps {
                    let further = [&schedule[..], &[step]].concat();
                    let digest = run(&copy(start).await, tasks, &further).await.digest;
                    next.entry(digest).or_insert((further, 0)).1 += count;
                }
            }
        }
        level = next;
    }
    (schedules, states)
}
