//! The failing twin: a wrapper whose requests go wrong as planned, for the tests of everything that stands on a store.
//!
//! Each fault is one that real stores show: an error before the effect, an error after it (the answer got lost), a 503,
//! slowness, and being away altogether.
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::Operation;

/// How a request goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks before the store has done anything.
    Before,
    /// The store has done it, and the answer is lost.
    After,
    /// The store answers 503 and has done nothing.
    Unavailable,
    /// The store answers 409, as S3 does while another conditional put of that name is under way, and has done nothing.
    Contended,
}

/// A request that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What was asked for.
    pub operation: Operation,
    /// The object's or folder's name.
    pub path: String,
    /// How it went wrong, if it was made to.
    pub fault: Option<Fault>,
}

/// Which requests go wrong. Clones share the switch and the record of calls, so a test keeps one and gives one away.
#[derive(Debug, Clone)]
pub struct FaultPlan {
    shares: Vec<(Fault, f64)>,
    only: Option<Vec<Operation>>,
    latency: Option<Range<Duration>>,
    planned: Vec<(Operation, u64, Fault)>,
    down_after: Option<u64>,
    down: Arc<AtomicBool>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    chance: StdRng,
    calls: Vec<Call>,
    count_by_operation: BTreeMap<Operation, u64>,
    count: u64,
}

/// Calls beyond these are made but not recorded, so that a long simulation keeps its memory.
const CALLS_RECORDED_MAX: usize = 100_000;

impl FaultPlan {
    /// A plan without faults; `seed` decides what is left to chance.
    pub fn new(seed: u64) -> Self {
        let state = State {
            chance: StdRng::seed_from_u64(seed),
            calls: Vec::new(),
            count_by_operation: BTreeMap::new(),
            count: 0,
        };
        Self {
            shares: Vec::new(),
            only: None,
            latency: None,
            planned: Vec::new(),
            down_after: None,
            down: Arc::default(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// A share in `[0, 1]` of all requests fails this way. Shares of several faults add up.
    #[must_use]
    pub fn share(mut self, fault: Fault, share: f64) -> Self {
        self.shares.push((fault, share));
        self
    }

    /// Faults by chance befall these operations only.
    #[must_use]
    pub fn only(mut self, operations: &[Operation]) -> Self {
        self.only = Some(operations.to_vec());
        self
    }

    /// Every request takes this much longer.
    #[must_use]
    pub fn latency(mut self, range: Range<Duration>) -> Self {
        self.latency = Some(range);
        self
    }

    /// The `n`-th request of this kind (the first is 1) fails this way.
    #[must_use]
    pub fn fail_nth(mut self, operation: Operation, n: u64, fault: Fault) -> Self {
        self.planned.push((operation, n, fault));
        self
    }

    /// The store answers `calls` requests and is away from then on: how the rest of the world sees a process die there.
    #[must_use]
    pub fn down_after(mut self, calls: u64) -> Self {
        self.down_after = Some(calls);
        self
    }

    /// While it is set, every request fails without an effect.
    pub fn switch(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.down)
    }

    /// The requests so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// How often the store was asked for this.
    pub fn count(&self, operation: Operation) -> u64 {
        self.state().count_by_operation.get(&operation).copied().unwrap_or(0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What befalls the next request, and how long it takes.
    fn next(&self, operation: Operation, path: &str) -> (Option<Fault>, Duration) {
        let mut state = self.state();
        state.count += 1;
        let of_this_kind = state.count_by_operation.entry(operation).or_default();
        *of_this_kind += 1;
        let nth = *of_this_kind;
        // Chance is asked the same number of times for every request, so that one more planned fault shifts no other.
        let (roll, pace) = (state.chance.random::<f64>(), state.chance.random::<f64>());
        if self.down_after.is_some_and(|calls| state.count > calls) {
            self.down.store(true, Ordering::SeqCst);
        }
        let planned =
            self.planned.iter().find(|(kind, n, _)| *kind == operation && *n == nth).map(|(_, _, fault)| *fault);
        let fault = if self.down.load(Ordering::SeqCst) {
            Some(Fault::Before)
        } else {
            planned.or_else(|| self.by_chance(operation, roll))
        };
        if state.calls.len() < CALLS_RECORDED_MAX {
            state.calls.push(Call { operation, path: path.to_owned(), fault });
        }
        let latency = self
            .latency
            .as_ref()
            .map_or(Duration::ZERO, |range| range.start + range.end.saturating_sub(range.start).mul_f64(pace));
        (fault, latency)
    }

    fn by_chance(&self, operation: Operation, mut roll: f64) -> Option<Fault> {
        if self.only.as_ref().is_some_and(|only| !only.contains(&operation)) {
            return None;
        }
        for (fault, share) in &self.shares {
            if roll < *share {
                return Some(*fault);
            }
            roll -= share;
        }
        None
    }
}

/// The wrapper; see the module.
#[derive(Debug)]
pub(crate) struct Failing {
    inner: Arc<dyn ObjectStore>,
    plan: FaultPlan,
}

impl Failing {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, plan: FaultPlan) -> Self {
        Self { inner, plan }
    }

    /// Passes on a request, or makes it fail.
    async fn pass<T>(&self, operation: Operation, path: &Path, request: impl Future<Output = Result<T>>) -> Result<T> {
        let (fault, latency) = self.plan.next(operation, path.as_ref());
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        match fault {
            None => request.await,
            Some(Fault::After) => {
                let _lost = request.await;
                Err(answer(Fault::After))
            }
            Some(fault) => Err(answer(fault)),
        }
    }
}

/// The fault as the real clients show it, so that it is judged by the same code.
fn answer(fault: Fault) -> Error {
    let contended = "Server returned non-2xx status code: 409 Conflict: ConditionalRequestConflict";
    let source: Box<dyn std::error::Error + Send + Sync> = match fault {
        Fault::Before => Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
        Fault::After => Box::new(std::io::Error::from(std::io::ErrorKind::TimedOut)),
        // The S3 client makes "already exists" of every 409, whether or not there is an object.
        Fault::Contended => return Error::AlreadyExists { path: String::new(), source: contended.into() },
        Fault::Unavailable => "Server returned non-2xx status code: 503 Service Unavailable: SlowDown".into(),
    };
    Error::Generic { store: "failing twin", source }
}

#[async_trait]
impl ObjectStore for Failing {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let operation = Operation::of_put(&options);
        self.pass(operation, location, self.inner.put_opts(location, payload, options)).await
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
        self.pass(operation, location, self.inner.get_opts(location, options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = Self::new(Arc::clone(&self.inner), self.plan.clone());
        let deleted = locations.then(move |location| {
            let this = Self::new(Arc::clone(&this.inner), this.plan.clone());
            async move {
                let location = location?;
                this.pass(Operation::Delete, &location, this.inner.delete(&location)).await?;
                Ok(location)
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.map_or("", |prefix| prefix.as_ref());
        match self.plan.next(Operation::List, path) {
            (None, _) => self.inner.list(prefix),
            // Some of it comes, then the connection breaks.
            (Some(fault), _) => self.inner.list(prefix).take(1).chain(stream::iter([Err(answer(fault))])).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let root = Path::default();
        self.pass(Operation::List, prefix.unwrap_or(&root), self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl std::fmt::Display for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Failing({})", self.inner)
    }
}
