//! `/metrics`, `/livez` and `/readyz`.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use driftline_collector::CollectorStatus;
use driftline_store::Store;
use opentelemetry::global;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long the store may take to answer before this process is not ready.
const STORE_MAX: Duration = Duration::from_secs(3);
/// How often `driftline_ready` is brought up to date: one request to the store each time.
const READY_EVERY: Duration = Duration::from_secs(15);

/// What the pages are made of.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) registry: Registry,
    pub(crate) store: Store,
    /// Present if this process collects.
    pub(crate) collector: Option<Arc<CollectorStatus>>,
}

/// Listens at `address`; an address in use is an error before anything else starts.
pub(crate) async fn bind(address: &str) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen at {address} (choose another with --listen HOST:PORT or serve.listen)"))?;
    let address = listener.local_addr().context("read the address")?;
    Ok((listener, address))
}

/// Serves until `shutdown`.
pub(crate) async fn run(listener: TcpListener, pages: Pages, shutdown: CancellationToken) -> Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(pages.clone());
    let stop = shutdown.clone();
    let served = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
    let ((), served) = tokio::join!(watch_readiness(&pages, &shutdown), served.into_future());
    served.context("serve HTTP")
}

/// Says in `/metrics` too whether `/readyz` is content.
async fn watch_readiness(pages: &Pages, shutdown: &CancellationToken) {
    let ready = global::meter("driftline")
        .u64_gauge("driftline_ready")
        .with_description("1 while the store and the brokers answer and no partition is halted, else 0")
        .build();
    loop {
        ready.record(u64::from(reasons_against(pages).await.is_empty()), &[]);
        tokio::select! { () = tokio::time::sleep(READY_EVERY) => {}, () = shutdown.cancelled() => return }
    }
}

async fn metrics(State(pages): State<Pages>) -> Response {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&pages.registry.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Ready: the store answers, the brokers answer, partitions are assigned and none is halted.
async fn ready(State(pages): State<Pages>) -> Response {
    let reasons = reasons_against(&pages).await;
    if reasons.is_empty() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
    }
}

/// Why this process is not ready; nothing if it is.
async fn reasons_against(pages: &Pages) -> Vec<String> {
    let mut reasons = Vec::new();
    match tokio::time::timeout(STORE_MAX, pages.store.head(driftline_store::paths::MANIFEST)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => reasons.push(format!("store: {error}")),
        Err(_) => reasons.push(format!("store: no answer within {} s", STORE_MAX.as_secs())),
    }
    if let Some(collector) = &pages.collector {
        if !collector.broker_connected() {
            reasons.push("kafka: the brokers do not answer".to_owned());
        }
        if let Some(why) = collector.refused() {
            reasons.push(format!("kafka: {why}"));
        }
        if let Some(why) = collector.letters_refused() {
            reasons.push(format!("kafka: dead letters are not published: {why}"));
        }
        if !collector.store_ok() {
            reasons.push("store: flushes are waiting".to_owned());
        }
        for (partition, status) in collector.partitions() {
            if let Some(halted) = status.halted {
                reasons.push(format!("{partition}: {halted}"));
            }
        }
    }
    reasons
}
