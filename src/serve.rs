//! `/metrics`, `/livez` and `/readyz`.
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use driftline_collector::CollectorStatus;
use driftline_store::Store;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

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
        .with_state(pages);
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { shutdown.cancelled().await })
        .await
        .context("serve HTTP")
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
    let mut reasons = Vec::new();
    match tokio::time::timeout(std::time::Duration::from_secs(3), pages.store.head(driftline_store::paths::MANIFEST))
        .await
    {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => reasons.push(format!("store: {error}")),
        Err(_) => reasons.push("store: no answer within 3 s".to_owned()),
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
    if reasons.is_empty() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
    }
}
