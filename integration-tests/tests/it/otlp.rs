//! OTLP over HTTP: what a collector of OpenTelemetry receives when the standard variable names it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use driftline_integration_tests::generator::{Options, generate};
use driftline_integration_tests::kafka::{Broker, Topics};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use crate::sandbox::{Said, Sandbox};

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
    let listener = TcpListener::bind("127.0.0.1:0").await.context("find a free port")?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let served = router(&exports);
    tokio::spawn(async move { axum::serve(listener, served).await });
    let said = run_exporting_to(&endpoint, &[]).await?;
    ensure!(said.code == Some(0), "{}", said.stderr);
    ensure_whole(&exports)
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_go_over_tls_to_who_shows_a_certificate_that_is_trusted() -> Result<()> {
    let exports = Exports::default();
    let folder = tempfile::tempdir()?;
    let (chain, key) = certificate(folder.path())?;
    let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from_pem_file(&chain)?], PrivateKeyDer::from_pem_file(key)?)?;
    let listener = Tls { tcp: TcpListener::bind("127.0.0.1:0").await?, tls: TlsAcceptor::from(Arc::new(tls)) };
    let endpoint = format!("https://localhost:{}", listener.tcp.local_addr()?.port());
    let served = router(&exports);
    tokio::spawn(async move { axum::serve(listener, served).await });

    let said = run_exporting_to(&endpoint, &[]).await?;
    ensure!(said.code == Some(0), "metrics that nobody takes must stop nothing: {}", said.stderr);
    ensure!(exports.lock().unwrap_or_else(PoisonError::into_inner).is_empty(), "a stranger was trusted");

    let chain = chain.to_str().context("the folder's name is text")?;
    let said = run_exporting_to(&endpoint, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", chain)]).await?;
    ensure!(said.code == Some(0), "{}", said.stderr);
    ensure_whole(&exports)?;

    let said = run_exporting_to(&endpoint, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", "missing.pem")]).await?;
    ensure!(said.code == Some(1) && said.stderr.contains("missing.pem"), "{said:?}");
    Ok(())
}

fn router(exports: &Exports) -> Router {
    Router::new().route("/v1/metrics", post(keep)).with_state(Arc::clone(exports))
}

/// A certificate for `localhost`, which is its own authority, and its key.
pub(crate) fn certificate(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-out"])
        .arg(&chain)
        .arg("-keyout")
        .arg(&key)
        .output()
        .context("run openssl (apt-get install openssl)")?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok((chain, key))
}

/// Accepts connections over TLS; those that do not come to terms are left.
struct Tls {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            if let Ok((connection, from)) = self.tcp.accept().await
                && let Ok(connection) = self.tls.accept(connection).await
            {
                return (connection, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

/// Runs a pipeline over a few events, telling its metrics to an endpoint.
async fn run_exporting_to(endpoint: &str, variables: &[(&str, &str)]) -> Result<Said> {
    let broker = Broker::embedded()?;
    let options = Options { predictions: 200, label_partitions: 4, malformed_of_each: 1, ..Options::default() };
    let run = generate(&options);
    let topics = Topics::unique();
    broker.create_topics(&topics, &run).await?;
    broker.produce(&topics, &run.records).await?;
    let sandbox = Sandbox::new(broker.brokers(), &topics, &options.models_toml())?;
    let arguments = ["run", "--roles", "collector,aggregator,evaluator", "--until-caught-up"];
    let mut variables = variables.to_vec();
    variables.push(("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint));
    sandbox.run_with(&arguments, &variables).await
}

fn ensure_whole(exports: &Exports) -> Result<()> {
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
