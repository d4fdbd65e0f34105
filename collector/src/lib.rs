//! Kafka to raw/: decodes events and flushes them into one chain of objects per source partition.
//!
//! ```text
//!  source (Kafka, or its in-memory twin)
//!    │ RawRecord                       one thread polls, decodes, and decides what is flushed when
//!    ▼
//!  decode ──► DecodedEvent | Rejection
//!    │
//!    ▼
//!  PartitionBuffer ──► SealedBatch     sorted by (model, base window), indexed, counted
//!    │
//!    ▼
//!  flush: create raw/<chain>/<from>    THE commit; whoever loses the slot adopts the winner's end
//! ```
//!
//! The invariants that live here: **C1** chains are contiguous, **C2** decoding is pure, **C3** any number of writers are
//! harmless, **C4** Kafka's committed offsets decide nothing, **B1** every buffer has a bound.
pub mod decode;

pub mod error;
pub mod settings;
pub mod source;

pub mod batch;
mod caught_up;
pub mod chain;
mod columns;
pub mod flush;
mod flusher;
mod gap;
mod partition;
mod stage;
mod starts;

mod dead_letter;
mod describe;
mod inlet;
mod kafka;
pub mod memory;
mod outbox;
pub mod refusal;
mod topics;

pub mod status;
mod telemetry;

use std::sync::Arc;

use driftline_store::Store;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use dead_letter::DeadLetters;
pub use error::{Disposition, Error};
pub use gap::accept_gap;
pub use settings::CollectorSettings;
pub use stage::Until;
pub use starts::ChainStarts;
pub use status::{CollectorStatus, PartitionStatus};
pub use topics::{Finding, examine};

use dead_letter::KafkaDeadLetters;
use flusher::Flusher;
use outbox::Outbox;
use source::EventSource;
use stage::Stage;
use telemetry::Telemetry;

/// Flushes and facts that wait for the flusher. The stage never waits for room: a full queue leaves buffers to grow
/// within their own bound.
const WORK_QUEUE: usize = 64;

/// Reads Kafka into raw chains until told to stop, or until caught up.
///
/// A broker or a store that is away is waited for; the status says so.
///
/// # Errors
/// Settings that cannot work, a missing or compacted topic, a store that refuses, or, when catching up, partitions that
/// need a person.
pub async fn run(
    settings: CollectorSettings,
    store: Store,
    status: Arc<CollectorStatus>,
    until: Until,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    settings.validate()?;
    let letters = KafkaDeadLetters::open(&settings)?.map(|letters| Box::new(letters) as Box<dyn DeadLetters>);
    let (to_connect, stop, seen) = (settings.clone(), shutdown.clone(), Arc::clone(&status));
    let connect = move |starts| kafka::KafkaSource::connect(&to_connect, starts, &seen, until, &stop);
    run_on(connect, settings, store, letters, status, until, shutdown).await
}

/// The same on any source. `connect` runs on the thread that will poll; `None` means that it was told to stop.
pub async fn run_on<S, C>(
    connect: C,
    settings: CollectorSettings,
    store: Store,
    dead_letters: Option<Box<dyn DeadLetters>>,
    status: Arc<CollectorStatus>,
    until: Until,
    shutdown: CancellationToken,
) -> Result<(), Error>
where
    S: EventSource,
    C: FnOnce(Arc<ChainStarts>) -> Result<Option<S>, Error> + Send + 'static,
{
    let telemetry = Telemetry::default();
    // A run that is dropped in mid-air takes its thread with it.
    let stop = shutdown.child_token();
    let _stop_when_dropped = stop.clone().drop_guard();
    let (work, work_due) = mpsc::channel(WORK_QUEUE);
    let (done_due, done) = mpsc::channel(WORK_QUEUE);
    let starts = Arc::new(ChainStarts::new(store.clone(), settings.topics(), settings.start));
    let (tell, told) = oneshot::channel();
    let (thread_telemetry, thread_status) = (telemetry.clone(), Arc::clone(&status));
    let drive = move || {
        let driven = connect(Arc::clone(&starts)).and_then(|source| match source {
            None => Ok(()),
            Some(source) => {
                let queues = (work, done);
                let stage = Stage::new(source, settings, starts, thread_status, thread_telemetry, queues);
                stage.drive(until, &stop)
            }
        });
        // Nobody listens any more if the run was dropped.
        let _ = tell.send(driven);
    };
    let thread = std::thread::Builder::new().name("driftline-collector".into());
    thread.spawn(drive).map_err(|_| Error::Ended("thread"))?;
    let outbox = Outbox::new(dead_letters, Arc::clone(&status), telemetry.clone());
    let flusher = Flusher { store, telemetry, status, outbox };
    let (flushed, driven) = tokio::join!(flusher::run(flusher, work_due, done_due), told);
    // The stage ends when the flusher has failed: the flusher's reason is the first.
    flushed?;
    driven.map_err(|_| Error::Ended("thread"))?
}
