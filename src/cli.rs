//! What users type.
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Tells, minutes after the fact and for years afterwards, how well models in production do.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Configuration file [default: driftline.toml, if there is one].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where everything is kept: a path, s3://bucket/prefix, gs://, az://; overrides store.url.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// Kafka brokers, host:port,…; overrides kafka.brokers.
    #[arg(long, global = true, value_name = "LIST")]
    pub(crate) brokers: Option<String>,
    /// How log lines look on stderr; RUST_LOG chooses which.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Csv,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows the whole pipeline on real data, with nothing installed; ends by itself.
    Demo(DemoArgs),
    /// Runs the pipeline: all roles in one process, or some of them.
    Run(RunArgs),
    /// Runs only the collector: Kafka → raw/.
    Collector(CollectorArgs),
    /// Runs only the aggregator: raw/ → history/.
    Aggregator(RoleArgs),
    /// Runs only the evaluator: history/ → metrics/.
    Evaluator(RoleArgs),
    /// Serves /metrics, /livez and /readyz only.
    Serve(RoleArgs),
    /// Publishes files of JSON lines to a topic, acknowledged by all replicas.
    Produce(ProduceArgs),
    /// Evaluates files, without Kafka: for backfills, notebooks and CI.
    Evaluate(EvaluateArgs),
    /// Runs SQL over everything that is kept; a prompt without -c.
    Sql(SqlArgs),
    /// Writes a report on one model: what needs attention, and everything that it rests on.
    Report(ReportArgs),
    /// Searches tags and features for the segments in which a model does worst.
    Segments(SegmentsArgs),
    /// Prints the accounts of partitions, models and windows; exit 3 if they do not add up.
    Audit(AuditArgs),
    /// Judges past windows again under the present configuration.
    Reevaluate(ReevaluateArgs),
    /// Freezes what windows are measured against.
    Reference {
        #[command(subcommand)]
        command: ReferenceCommand,
    },
    /// Takes predictions and their labels out of everything that is kept, by id, for good.
    Forget(ForgetArgs),
    /// Shows alerts, tests receivers, silences, and replays rules over the past.
    Alerts {
        #[command(subcommand)]
        command: AlertsCommand,
    },
    /// Checks configuration, store, brokers, topics and clock.
    Check,
    /// Shows the configuration as it is understood.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Prints a completion script.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether it is a process that people watch by its log; the others speak for themselves.
    pub(crate) fn is_service(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Collector(_) | Self::Aggregator(_) | Self::Evaluator(_) | Self::Serve(_))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Prints the configuration with all defaults and overrides; secrets are hidden.
    Print,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Folder of the demo's broker and store; it is emptied first if a demo made it.
    #[arg(long, default_value = "driftline-data", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Stay up after the replay, with /metrics, until Ctrl-C.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Which data set is replayed.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) data: DemoData,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DemoData {
    /// Is a person employed? Binary, 41,779 predictions in 24 days, two versions.
    #[default]
    MaEmployment,
    /// Air time of a flight. Regression, 25,004 predictions in half a year.
    FlightAirtime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Role {
    Collector,
    Aggregator,
    Evaluator,
    Serve,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Collector => "collector",
            Self::Aggregator => "aggregator",
            Self::Evaluator => "evaluator",
            Self::Serve => "serve",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Which roles this process has.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "collector,aggregator,evaluator,serve")]
    pub(crate) roles: Vec<Role>,
    #[command(flatten)]
    pub(crate) role: RoleArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RoleArgs {
    /// Read to the end of every partition as it stands now, judge every window, write all results, and end.
    #[arg(long)]
    pub(crate) until_caught_up: bool,
    /// Serve /metrics, /livez and /readyz at this address.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct CollectorArgs {
    #[command(subcommand)]
    pub(crate) command: Option<CollectorCommand>,
    #[command(flatten)]
    pub(crate) role: RoleArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CollectorCommand {
    /// Writes an explicit gap where the broker no longer has the offsets that come next.
    AcceptGap {
        /// Topic of the halted partition.
        #[arg(long)]
        topic: String,
        /// Number of the halted partition.
        #[arg(long)]
        partition: u32,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ProduceArgs {
    /// Files of JSON lines, .gz or not; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Topic to publish to.
    #[arg(long)]
    pub(crate) topic: String,
}

#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// Prediction events: JSON lines (.gz or not) or Parquet; labels may stand inline in a column `label`.
    #[arg(long, required = true, value_name = "FILE", num_args = 1..)]
    pub(crate) predictions: Vec<PathBuf>,
    /// Label events: JSON lines (.gz or not) or Parquet.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) labels: Vec<PathBuf>,
    /// Where the tables are written; a folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Name of the model, where rows do not say [default: the configured one if there is one, else `model`].
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// How the metrics are printed.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct SqlArgs {
    /// Query; several are separated by semicolons.
    #[arg(short = 'c', long = "command", value_name = "QUERY")]
    pub(crate) query: Option<String>,
    /// How rows are printed.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Model.
    #[arg(long, required_unless_present = "name", conflicts_with = "name")]
    pub(crate) model: Option<String>,
    /// Only windows that start at or after this time (RFC 3339).
    #[arg(long, value_name = "TIME", conflicts_with = "name")]
    pub(crate) from: Option<chrono::DateTime<chrono::Utc>>,
    /// Only windows that start before this time (RFC 3339).
    #[arg(long, value_name = "TIME", conflicts_with = "name")]
    pub(crate) to: Option<chrono::DateTime<chrono::Utc>>,
    /// The same as a report of [[reports]] makes by itself, of its last occurrence; nothing is recorded, and nobody is told.
    #[arg(long, value_name = "REPORT")]
    pub(crate) name: Option<String>,
    /// Of its last occurrence until this time (RFC 3339).
    #[arg(long, value_name = "TIME", requires = "name")]
    pub(crate) at: Option<chrono::DateTime<chrono::Utc>>,
    /// Where it is written: .html (one self-contained page), .json or .md; `-` is Markdown on standard output. With --name a
    /// folder.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct SegmentsArgs {
    /// Model.
    #[arg(long)]
    pub(crate) model: String,
    /// By what it does worse: accuracy, precision, recall, specificity, brier_score, log_loss; mean_absolute_error,
    /// mean_squared_error [default: the first of its task].
    #[arg(long)]
    pub(crate) metric: Option<String>,
    /// Only windows that start at or after this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<chrono::DateTime<chrono::Utc>>,
    /// Only windows that start before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<chrono::DateTime<chrono::Utc>>,
    /// Rows that a segment has at least.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) min_rows: u64,
    /// Only single tags and features, no crosses of two.
    #[arg(long)]
    pub(crate) no_crosses: bool,
    /// Segments shown.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) limit: usize,
    /// How they are printed.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Only this model; partitions are always audited.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// How the accounts are printed.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct ReevaluateArgs {
    /// Model whose windows are judged again.
    #[arg(long)]
    pub(crate) model: String,
    /// Only windows that end after this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<chrono::DateTime<chrono::Utc>>,
    /// Only windows that start before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<chrono::DateTime<chrono::Utc>>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReferenceCommand {
    /// Freezes distributions, bins and calibration of a file or of past windows, under a version.
    Fit(ReferenceFitArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ReferenceFitArgs {
    /// Model that is measured against it.
    #[arg(long)]
    pub(crate) model: String,
    /// Prediction events with inline labels: JSON lines (.gz or not) or Parquet; without it, past windows of the model.
    #[arg(value_name = "FILE", conflicts_with_all = ["from", "to"])]
    pub(crate) file: Option<String>,
    /// Only windows that start at or after this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<chrono::DateTime<chrono::Utc>>,
    /// Only windows that end at or before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<chrono::DateTime<chrono::Utc>>,
    /// Where it is written [default: in the store, under its version].
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    /// Model whose predictions and labels are forgotten.
    #[arg(long)]
    pub(crate) model: String,
    /// Ids to forget; what comes again under one of them is dropped too.
    #[arg(long = "prediction-id", value_name = "ID", num_args = 1.., required_unless_present = "ids_file")]
    pub(crate) prediction_ids: Vec<String>,
    /// File with one id a line; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) ids_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AlertsCommand {
    /// Lists alerts that are firing.
    List {
        /// Only this model.
        #[arg(long)]
        model: Option<String>,
        /// Those that are over, withdrawn or were missed, too.
        #[arg(long)]
        all: bool,
        /// How they are printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Shows all that happened to an alert, with its evidence.
    Show {
        /// Its id, as `alerts list` has it.
        id: String,
        /// How it is printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Sends a test notification to each sink; exit 3 if one does not take it.
    Test {
        /// Only this sink.
        #[arg(long)]
        sink: Option<String>,
    },
    /// Keeps people from being told for a while; also in advance, for maintenance.
    Silence(SilenceArgs),
    /// Lists silences that have not ended, and maintenance by schedule.
    Silences,
    /// Says what the rules of the configuration would have done in the past.
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SilenceArgs {
    /// Only this model.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Only this rule.
    #[arg(long)]
    pub(crate) rule: Option<String>,
    /// Only this segment.
    #[arg(long)]
    pub(crate) segment: Option<String>,
    /// Only this value of a segment.
    #[arg(long)]
    pub(crate) segment_value: Option<String>,
    /// How long, such as 2h or 3d.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration, required_unless_present = "expire")]
    pub(crate) length: Option<std::time::Duration>,
    /// From when on (RFC 3339); now by default.
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<chrono::DateTime<chrono::Utc>>,
    /// Why.
    #[arg(long, default_value = "")]
    pub(crate) comment: String,
    /// Ends a silence early, by its id.
    #[arg(long, value_name = "ID")]
    pub(crate) expire: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Only this model.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Only windows that start at or after this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<chrono::DateTime<chrono::Utc>>,
    /// Only windows that start before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<chrono::DateTime<chrono::Utc>>,
    /// Print each transition too.
    #[arg(long)]
    pub(crate) transitions: bool,
}
