//! Logs on stderr, and the metrics of this process: Prometheus always, OTLP when its endpoint is set.
use anyhow::{Context, Result};
use opentelemetry::global;
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
        let is_wanted = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if is_wanted("OTEL_EXPORTER_OTLP_ENDPOINT") || is_wanted("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") {
            let otlp =
                opentelemetry_otlp::MetricExporter::builder().with_http().build().context("set up OTLP metrics")?;
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
