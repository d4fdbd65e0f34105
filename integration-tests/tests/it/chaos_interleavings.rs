//! C1, C3: every order in which two writers of one chain can make their requests, with answers that are lost, and deaths before and
//! after a request takes effect. Not by chance: all of them, up to a number of faults.
//!
//! A writer that is not chosen is a writer that is paused, for as long as the others live.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use driftline_collector::batch::PartitionBuffer;
use driftline_collector::chain::{self, create_genesis, genesis, read_genesis};
use driftline_collector::flush::{self, Appended, EncodedObject};
use driftline_collector::source::{ChainTail, RawRecord};
use driftline_schemas::event::EventKind;
use driftline_schemas::position::TopicPartition;
use driftline_schemas::raw::RawFooter;
use driftline_store::{RetryPolicy, Store, paths};
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as Answer, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

const CHAIN: &str = "t~0";
const TOPIC: &str = "t";
/// A schedule that fails is repeated with this, as it was printed.
const SCHEDULE: &str = "DRIFTLINE_TEST_SCHEDULE";

/// What becomes of the request that is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    /// It takes effect, and the answer is lost.
    LostAfter,
    /// It never arrives.
    LostBefore,
    /// It takes effect, and its writer dies before it hears of it.
    DiesAfter,
    /// Its writer dies before it is made.
    DiesBefore,
}

const FAULTS: &[Fate] = &[Fate::LostAfter, Fate::LostBefore, Fate::DiesAfter, Fate::DiesBefore];

/// The door at which a writer waits with each request.
#[derive(Debug, Default)]
struct Door {
    waits: bool,
    /// Whether the request that waits is to write.
    is_write: bool,
    fate: Option<Fate>,
    /// The request that was let through has taken effect or never will.
    done: bool,
}

/// One writer's view of the store.
#[derive(Debug)]
struct Gate {
    inner: Arc<InMemory>,
    door: Arc<Mutex<Door>>,
    /// Everything that any name has ever held.
    seen: Arc<Mutex<BTreeMap<String, BTreeSet<Bytes>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lost() -> Answer {
    let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
    Answer::Generic { store: "gate", source: Box::new(source) }
}

impl Gate {
    async fn pass<T>(
        &self,
        is_write: bool,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        let fate = std::future::poll_fn(|_| {
            let mut door = lock(&self.door);
            door.is_write = is_write;
            let fate = door.fate.take();
            door.waits = fate.is_none();
            fate.map_or(Poll::Pending, Poll::Ready)
        });
        let answer = match fate.await {
            Fate::Passes => request.await,
            Fate::LostAfter | Fate::DiesAfter => {
                let _lost = request.await;
                Err(lost())
            }
            Fate::LostBefore | Fate::DiesBefore => Err(lost()),
        };
        lock(&self.door).done = true;
        answer
    }

    /// Notes what a name holds now.
    async fn note(&self, location: &Path) {
        if let Ok(found) = self.inner.get(location).await
            && let Ok(bytes) = found.bytes().await
        {
            lock(&self.seen).entry(location.to_string()).or_default().insert(bytes);
        }
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        let request = async {
            let answer = self.inner.put_opts(at, payload, options).await;
            self.note(at).await;
            answer
        };
        self.pass(true, request).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.pass(false, self.inner.get_opts(at, options)).await
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        self.pass(false, self.inner.get_ranges(at, ranges)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

/// The choices of one schedule: those given, then the first everywhere.
#[derive(Debug, Default)]
struct Choices {
    given: Vec<usize>,
    /// Taken, and out of how many.
    taken: Vec<(usize, usize)>,
}

impl Choices {
    fn choose(&mut self, count: usize) -> usize {
        let choice = self.given.get(self.taken.len()).copied().unwrap_or(0).min(count - 1);
        self.taken.push((choice, count));
        choice
    }

    /// The next schedule in the order of the tree; `None` after the last.
    fn next(&self) -> Option<Choices> {
        let mut given = self.taken.clone();
        while let Some((choice, count)) = given.pop() {
            if choice + 1 < count {
                let mut given: Vec<usize> = given.into_iter().map(|(choice, _)| choice).collect();
                given.push(choice + 1);
                return Some(Choices { given, taken: Vec::new() });
            }
        }
        None
    }

    fn show(&self) -> String {
        self.taken.iter().map(|(choice, _)| choice.to_string()).collect::<Vec<_>>().join(",")
    }
}

/// How writers begin, and how much may go wrong.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    /// Where each writer believes the chain begins, if it has no genesis: retention at the broker has moved between the two.
    birth: Option<[i64; 2]>,
    /// Each appends until the chain has reached this.
    end: i64,
    /// Offsets in a flush of each writer.
    sizes: [i64; 2],
    /// Faults in one schedule at most.
    faults: usize,
    /// Which.
    kinds: &'static [Fate],
    /// Whether only writes fail.
    writes_only: bool,
}

/// Objects are the same for the same writer and slot, so they are made once.
type Objects = Arc<Mutex<BTreeMap<(usize, i64, i64), Arc<EncodedObject>>>>;

fn object(objects: &Objects, writer: usize, from: i64, to: i64) -> Arc<EncodedObject> {
    let make = || {
        let at = TopicPartition::new(TOPIC, 0);
        let mut buffer = PartitionBuffer::new(at, EventKind::Labels, from);
        for offset in from..to {
            let label = format!(
                "{{\"prediction_id\":\"p{offset}\",\"model_name\":\"m\",\"timestamp\":\"2026-01-05T10:00:00Z\",\"label\":1}}"
            );
            buffer.push(&RawRecord { offset, timestamp: None, payload: Some(label.as_bytes()) }, 0);
        }
        // Each writer has its own clock.
        let sealed = buffer.seal(1_767_607_200_000_000 + writer as i64).unwrap();
        Arc::new(flush::encode(&sealed, CHAIN, None, &format!("writer {writer}")).unwrap())
    };
    lock(objects).entry((writer, from, to)).or_insert_with(make).clone()
}

/// A life of a writer: finds the chain, and appends until it has reached the end. Claims are what it was told it has written.
async fn write(
    store: Store,
    writer: usize,
    scenario: Scenario,
    objects: Objects,
    claims: Arc<Mutex<Vec<(usize, i64, i64)>>>,
) {
    let mut tail = loop {
        match find(&store, writer, scenario).await {
            Ok(tail) => break tail,
            Err(error) => assert!(error.disposition() == driftline_collector::Disposition::Retry, "{error}"),
        }
    };
    while tail.to < scenario.end {
        let to = tail.to + scenario.sizes[writer];
        match flush::append(&store, &object(&objects, writer, tail.to, to)).await {
            Ok(Appended::Ours) => {
                lock(&claims).push((writer, tail.to, to));
                tail.to = to;
            }
            Ok(Appended::Theirs(theirs)) => tail = theirs,
            Err(error) => assert!(error.disposition() == driftline_collector::Disposition::Retry, "{error}"),
        }
    }
}

async fn find(store: &Store, writer: usize, scenario: Scenario) -> Result<ChainTail, driftline_collector::Error> {
    let Some(births) = scenario.birth else {
        return Ok(ChainTail { chain: CHAIN.into(), topic_id: None, to: 0, last_from: None, written_at: None });
    };
    let birth = match read_genesis(store, CHAIN).await? {
        Some(birth) => birth,
        None => create_genesis(store, CHAIN, genesis(TOPIC, None, 0, births[writer])).await?,
    };
    chain::seek_tail(store, CHAIN, &birth, None).await
}

/// Runs one schedule and checks what it leaves.
fn run(scenario: Scenario, objects: &Objects, choices: &mut Choices, runtime: &tokio::runtime::Runtime) -> Result<()> {
    let inner = Arc::new(InMemory::new());
    let seen = Arc::default();
    let claims: Arc<Mutex<Vec<(usize, i64, i64)>>> = Arc::default();
    let doors: [Arc<Mutex<Door>>; 2] = [Arc::default(), Arc::default()];
    let live = |writer: usize| -> Pin<Box<dyn Future<Output = ()>>> {
        let gate = Gate { inner: inner.clone(), door: doors[writer].clone(), seen: Arc::clone(&seen) };
        *lock(&doors[writer]) = Door::default();
        let store = Store::over("memory://", Arc::new(gate)).with_retry(RetryPolicy::never());
        Box::pin(write(store, writer, scenario, objects.clone(), claims.clone()))
    };
    let mut writers = [Some(live(0)), Some(live(1))];
    let mut faults = scenario.faults;
    let _entered = runtime.enter();
    let mut context = TaskContext::from_waker(std::task::Waker::noop());
    for writer in &mut writers {
        if writer.as_mut().is_some_and(|writer| writer.as_mut().poll(&mut context).is_ready()) {
            *writer = None;
        }
    }
    for step in 0.. {
        ensure!(step < 400, "the writers make no progress");
        let waiting: Vec<usize> = (0..2).filter(|at| writers[*at].is_some()).collect();
        if waiting.is_empty() {
            break;
        }
        assert!(waiting.iter().all(|at| lock(&doors[*at]).waits), "a writer waits for something but a request");
        let mut ways: Vec<(usize, Fate)> = Vec::new();
        for at in waiting {
            let may_fail = faults > 0 && (!scenario.writes_only || lock(&doors[at]).is_write);
            ways.push((at, Fate::Passes));
            ways.extend(scenario.kinds.iter().filter(|_| may_fail).map(|kind| (at, *kind)));
        }
        let (at, fate) = ways[choices.choose(ways.len())];
        faults -= usize::from(fate != Fate::Passes);
        lock(&doors[at]).fate = Some(fate);
        lock(&doors[at]).done = false;
        if matches!(fate, Fate::DiesBefore) {
            writers[at] = None;
            writers[at] = Some(live(at));
        }
        let writer = writers[at].as_mut().context("it was just there")?;
        let is_over = writer.as_mut().poll(&mut context).is_ready();
        if fate == Fate::DiesAfter {
            writers[at] = None;
            writers[at] = Some(live(at));
            let writer = writers[at].as_mut().context("it was just made")?;
            if writer.as_mut().poll(&mut context).is_ready() {
                writers[at] = None;
            }
        } else if is_over {
            writers[at] = None;
        }
    }
    runtime.block_on(check(scenario, &Store::over("memory://", inner), &lock(&claims)))?;
    for (name, contents) in lock(&seen).iter() {
        ensure!(contents.len() == 1, "{name} has been overwritten: it held {} different objects", contents.len());
    }
    Ok(())
}

async fn check(scenario: Scenario, store: &Store, claims: &[(usize, i64, i64)]) -> Result<()> {
    let mut at = match scenario.birth {
        None => 0,
        Some(_) => read_genesis(store, CHAIN).await?.context("there is no genesis")?.from,
    };
    let mut stands = BTreeMap::new();
    while let Some(found) = store.get(&paths::raw_object(CHAIN, at as u64)).await? {
        let footer = RawFooter::from_bytes(&found.bytes)?;
        ensure!(footer.from == at && footer.to > at && footer.adds_up(), "{footer:?} stands at {at}");
        stands.insert(at, (footer.to, footer.writer));
        at = footer.to;
    }
    ensure!(at >= scenario.end, "the chain ends at {at}, before {}: a writer has left a hole", scenario.end);
    let objects = store.list(&paths::raw_folder(CHAIN)).await?.len();
    let expected = stands.len() + usize::from(scenario.birth.is_some());
    ensure!(objects == expected, "{objects} objects, of which {expected} belong to the chain: it has forked");
    for (writer, from, to) in claims {
        let standing = stands.get(from);
        let is_so = standing.is_some_and(|(end, by)| end == to && *by == format!("writer {writer}"));
        ensure!(is_so, "writer {writer} was told that it has written [{from}, {to}), and {standing:?} stands there");
    }
    Ok(())
}

/// All schedules of a scenario; how many there were.
fn exhaust(scenario: Scenario) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let objects = Objects::default();
    let given = std::env::var(SCHEDULE).ok().filter(|text| !text.is_empty());
    let mut choices = Choices::default();
    if let Some(text) = &given {
        choices.given = text.split(',').filter_map(|choice| choice.parse().ok()).collect();
    }
    let (began, mut schedules) = (Instant::now(), 0);
    loop {
        let ran = run(scenario, &objects, &mut choices, &runtime);
        ran.with_context(|| format!("{SCHEDULE}={} repeats this schedule of {scenario:?}", choices.show()))?;
        schedules += 1;
        match choices.next().filter(|_| given.is_none()) {
            Some(next) => choices = next,
            None => break,
        }
    }
    eprintln!("{schedules} schedules of {scenario:?} in {:.1} s", began.elapsed().as_secs_f64());
    Ok(schedules)
}

#[test]
#[ignore = "exhaustive: minutes; cargo test --workspace -- --ignored chaos_interleavings"]
fn c3_two_writers_in_every_order_with_every_fault_leave_one_chain() -> Result<()> {
    let long = Scenario { birth: None, end: 6, sizes: [2, 3], faults: 0, kinds: FAULTS, writes_only: false };
    let without_faults = exhaust(long)?;
    let with_one = exhaust(Scenario { end: 4, faults: 1, ..long })?;
    let with_two = exhaust(Scenario { end: 2, faults: 2, ..long })?;
    let is_repeated = std::env::var(SCHEDULE).is_ok();
    ensure!(is_repeated || (without_faults > 20 && with_one > 200 && with_two > 200), "too few to be all");
    Ok(())
}

/// The same where any answer may be lost, that to a read too.
#[test]
#[ignore = "exhaustive: more than half an hour; cargo test --workspace -- --ignored c1_a_chain_is_born_once_whatever"]
fn c1_a_chain_is_born_once_whatever_answer_is_lost() -> Result<()> {
    let kinds = &[Fate::LostAfter];
    exhaust(Scenario { birth: Some([0, 2]), end: 3, sizes: [3, 3], faults: 1, kinds, writes_only: false })?;
    Ok(())
}

/// C1: retention at the broker moves its first offset between the two looks at it, and the chain still begins once.
#[test]
#[ignore = "exhaustive: minutes; cargo test --workspace -- --ignored chaos_interleavings"]
fn c1_a_chain_is_born_once_though_retention_moves_the_first_offset() -> Result<()> {
    let calm = Scenario { birth: None, end: 3, sizes: [3, 3], faults: 0, kinds: FAULTS, writes_only: true };
    for births in [[0, 2], [2, 0], [1, 1]] {
        exhaust(Scenario { birth: Some(births), ..calm })?;
    }
    // A read that is lost is made again: those are left to the long one.
    exhaust(Scenario { birth: Some([0, 2]), faults: 1, kinds: &[Fate::LostAfter], ..calm })?;
    Ok(())
}
