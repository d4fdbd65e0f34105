//! Logs on stderr, and the metrics of this process: Prometheus always, OTLP when its endpoint is set.
use std::time::Duration;

use anyhow::{Context, Result};
use opentelemetry::global;
use opentelemetry_otlp::WithHttpConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{Instrument, PeriodicReader, SdkMeterProvider, Stream};
use prometheus::Registry;
use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;

/// Series of one instrument at most; what is beyond goes into one series that says `otel_metric_overflow`. It must hold
/// `models_max` times the states of a window, the metrics of all models that are exported, and a cluster's partitions.
const SERIES_MAX: usize = 20_000;

/// Log lines go to stderr; `quiet` shows only what is odd, unless RUST_LOG says otherwise.
pub(crate) fn init_logs(format: LogFormat, quiet: bool) {
    // rdkafka logs an error each time a consumer that was closed is dropped: it means nothing.
    let default = if quiet {
        "warn,rdkafka=off,librdkafka=error"
    } else {
        "info,rdkafka=error,rdkafka::consumer::base_consumer=off,librdkafka=warn"
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second initialisation can only happen in tests, and the first one holds.
    let _ = match format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
    };
}

/// The metrics of this process.
pub(crate) struct Metrics {
    provider: SdkMeterProvider,
    /// What `/metrics` shows.
    pub(crate) registry: Registry,
}

impl Metrics {
    /// Sets up the exporters. Must be called before any stage starts.
    pub(crate) fn start() -> Result<Self> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .context("set up Prometheus metrics")?;
        let mut builder = SdkMeterProvider::builder()
            .with_resource(Resource::builder().with_service_name("driftline").build())
            .with_view(|_: &Instrument| Stream::builder().with_cardinality_limit(SERIES_MAX).build().ok())
            .with_reader(exporter);
        if otlp_variable("ENDPOINT").is_some() {
            let otlp = opentelemetry_otlp::MetricExporter::builder()
                .with_http()
                .with_http_client(otlp_client()?)
                .build()
                .context("set up OTLP metrics")?;
            builder = builder.with_reader(PeriodicReader::builder(otlp).build());
        }
        let provider = builder.build();
        global::set_meter_provider(provider.clone());
        Ok(Self { provider, registry })
    }

    /// Sends what has not been sent.
    pub(crate) fn stop(self) {
        // The exporter waits with a blocking client of its own.
        let stopped = std::thread::spawn(move || self.provider.shutdown()).join();
        if let Ok(Err(error)) = stopped {
            tracing::debug!(%error, "metrics exporter");
        }
    }
}

/// One of OpenTelemetry's standard variables for exporters, that for metrics before that for all signals.
fn otlp_variable(name: &str) -> Option<String> {
    let of =
        |signal| std::env::var(format!("OTEL_EXPORTER_OTLP_{signal}{name}")).ok().filter(|value| !value.is_empty());
    of("METRICS_").or_else(|| of(""))
}

/// The client that exports go through. `https` is trusted by the system's authorities and by those of
/// `OTEL_EXPORTER_OTLP_CERTIFICATE`; the exporter itself knows nothing of these variables.
fn otlp_client() -> Result<reqwest::blocking::Client> {
    // A second installation can only happen in tests, and the first one holds.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = |variable: &str| -> Result<Option<Vec<u8>>> {
        let Some(file) = otlp_variable(variable) else { return Ok(None) };
        std::fs::read(&file).map(Some).with_context(|| format!("read OTEL_EXPORTER_OTLP_{variable}={file}"))
    };
    let millis = otlp_variable("TIMEOUT").and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let mut client = reqwest::blocking::Client::builder().timeout(Duration::from_millis(millis));
    if let Some(authorities) = read("CERTIFICATE")? {
        let authorities = reqwest::Certificate::from_pem_bundle(&authorities)
            .context("OTEL_EXPORTER_OTLP_CERTIFICATE holds no certificates in PEM")?;
        client = client.tls_certs_merge(authorities);
    }
    if let (Some(mut certificate), Some(key)) = (read("CLIENT_CERTIFICATE")?, read("CLIENT_KEY")?) {
        certificate.extend_from_slice(&key);
        let identity = reqwest::Identity::from_pem(&certificate)
            .context("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _KEY are no pair in PEM")?;
        client = client.identity(identity);
    }
    // A blocking client cannot be made on a thread of the async runtime.
    let made = std::thread::spawn(move || client.build()).join();
    made.expect("making a client does not panic").context("set up the client for OTLP")
}
