//! A wrapper that counts every request, under the meter `driftline`:
//!
//! | instrument | kind | attributes |
//! |---|---|---|
//! | `driftline_store_requests` | counter | `operation`, `outcome` (`ok`, `not_found`, `exists`, `conflict`, `error`) |
//! | `driftline_store_request_duration` (s) | histogram, until the answer's head | `operation` |
//! | `driftline_store_bytes` (By) | counter | `direction` (`read`, `written`) |
//!
//! A create that found an object and a replacement that found another version are answers, not errors.
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram},
};

use crate::Operation;

/// The upper bounds of the buckets that durations are counted in, seconds.
pub const SECONDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// See the module.
#[derive(Debug)]
pub(crate) struct Metered {
    inner: Arc<dyn ObjectStore>,
    instruments: Arc<Instruments>,
}

#[derive(Debug)]
struct Instruments {
    requests: Counter<u64>,
    duration: Histogram<f64>,
    bytes: Counter<u64>,
}

impl Metered {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        let meter = opentelemetry::global::meter("driftline");
        let instruments = Instruments {
            requests: meter
                .u64_counter("driftline_store_requests")
                .with_description("Requests to the object store, by what came of them")
                .build(),
            duration: meter
                .f64_histogram("driftline_store_request_duration")
                .with_unit("s")
                .with_description("Time until the object store answered")
                .with_boundaries(SECONDS.to_vec())
                .build(),
            bytes: meter
                .u64_counter("driftline_store_bytes")
                .with_description("Bytes of objects read from and written to the object store")
                .build(),
        };
        Self { inner, instruments: Arc::new(instruments) }
    }
}

impl Instruments {
    fn answered<T>(&self, operation: Operation, started: Instant, result: &Result<T>) {
        self.count(operation, started, result.as_ref().map_or_else(|error| outcome_of(operation, error), |_| "ok"));
    }

    fn count(&self, operation: Operation, started: Instant, outcome: &'static str) {
        let operation = KeyValue::new("operation", operation.name());
        self.duration.record(started.elapsed().as_secs_f64(), std::slice::from_ref(&operation));
        self.requests.add(1, &[operation, KeyValue::new("outcome", outcome)]);
    }

    fn read(&self, bytes: u64) {
        self.bytes.add(bytes, &[KeyValue::new("direction", "read")]);
    }

    fn written(&self, bytes: u64) {
        self.bytes.add(bytes, &[KeyValue::new("direction", "written")]);
    }
}

fn outcome_of(operation: Operation, error: &Error) -> &'static str {
    match error {
        Error::NotFound { .. } => "not_found",
        Error::AlreadyExists { .. } if operation == Operation::Create => "exists",
        Error::AlreadyExists { .. } | Error::Precondition { .. } => "conflict",
        _ => "error",
    }
}

/// Counts a listing when its stream ends or is dropped.
struct Listing {
    instruments: Arc<Instruments>,
    started: Instant,
    failed: AtomicBool,
}

impl Drop for Listing {
    fn drop(&mut self) {
        let outcome = if *self.failed.get_mut() { "error" } else { "ok" };
        self.instruments.count(Operation::List, self.started, outcome);
    }
}

#[async_trait]
impl ObjectStore for Metered {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (started, operation, bytes) = (Instant::now(), Operation::of_put(&options), payload.content_length());
        let result = self.inner.put_opts(location, payload, options).await;
        self.instruments.answered(operation, started, &result);
        if result.is_ok() {
            self.instruments.written(bytes as u64);
        }
        result
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (started, operation) = (Instant::now(), Operation::of_get(&options));
        let result = self.inner.get_opts(location, options).await;
        self.instruments.answered(operation, started, &result);
        if let (Operation::Get, Ok(found)) = (operation, &result) {
            self.instruments.read(found.range.end - found.range.start);
        }
        result
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let started = Instant::now();
        let result = self.inner.get_ranges(location, ranges).await;
        self.instruments.answered(Operation::Get, started, &result);
        if let Ok(parts) = &result {
            self.instruments.read(parts.iter().map(|part| part.len() as u64).sum());
        }
        result
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (started, instruments) = (Instant::now(), Arc::clone(&self.instruments));
        let deleted = self.inner.delete_stream(locations);
        deleted.inspect(move |result| instruments.answered(Operation::Delete, started, result)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let instruments = Arc::clone(&self.instruments);
        let listing = Listing { instruments, started: Instant::now(), failed: AtomicBool::new(false) };
        self.inner.list(prefix).inspect_err(move |_| listing.failed.store(true, Ordering::Relaxed)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let started = Instant::now();
        let result = self.inner.list_with_delimiter(prefix).await;
        self.instruments.answered(Operation::List, started, &result);
        result
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl std::fmt::Display for Metered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Metered({})", self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_race_is_no_error() {
        let exists = Error::AlreadyExists { path: "x".into(), source: "".into() };
        let changed = Error::Precondition { path: "x".into(), source: "".into() };
        let broken = Error::Generic { store: "x", source: "".into() };
        assert_eq!(outcome_of(Operation::Create, &exists), "exists");
        assert_eq!(outcome_of(Operation::Replace, &exists), "conflict");
        assert_eq!(outcome_of(Operation::Replace, &changed), "conflict");
        assert_eq!(outcome_of(Operation::Get, &broken), "error");
    }
}
