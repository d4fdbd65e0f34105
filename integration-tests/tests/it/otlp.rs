//! OTLP over HTTP: what a collector of OpenTelemetry receives when the standard variable names it.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use driftline_integration_tests::generator::{Options, generate};
use driftline_integration_tests::kafka::{Broker, Topics};

use crate::sandbox::Sandbox;

/// Exports as they came: content type and body.
type Exports = Arc<Mutex<Vec<(String, Bytes)>>>;

async fn keep(State(exports): State<Exports>, headers: HeaderMap, body: Bytes) -> &'static str {
    let kind = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    exports.lock().unwrap_or_else(PoisonError::into_inner).push((kind, body));
    ""
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_go_to_the_otlp_endpoint_and_the_last_ones_at_the_end() -> Result<()> {
    let exports = Exports::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("find a free port")?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let router = Router::new().route("/v1/metrics", post(keep)).with_state(Arc::clone(&exports));
    tokio::spawn(async move { axum::serve(listener, router).await });

    let broker = Broker::embedded()?;
    let options = Options { predictions: 200, label_partitions: 4, malformed_of_each: 1, ..Options::default() };
    let run = generate(&options);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    broker.produce(&topics, &run.records).await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &options.models_toml())?;
    let arguments = ["run", "--roles", "collector,aggregator,evaluator", "--until-caught-up"];
    let said = sandbox.run_with(&arguments, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]).await?;
    ensure!(said.code == Some(0), "{}", said.stderr);

    // The run is shorter than the interval of exports: what has arrived was sent when it ended.
    let exports = exports.lock().unwrap_or_else(PoisonError::into_inner);
    let (kind, body) = exports.last().context("nothing was exported")?;
    ensure!(kind == "application/x-protobuf", "the content type is {kind}");
    let holds = |text: &str| body.windows(text.len()).any(|part| part == text.as_bytes());
    for text in ["service.name", "driftline", "driftline_events_accepted", "driftline_revisions", "not_json"] {
        ensure!(holds(text), "the export of {} bytes has no {text:?}", body.len());
    }
    Ok(())
}
