//! Logs: where they go, how they look, and what they may never say. Traces: see `traces`.

mod traces;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use traces::{TARGET, Traces, TracesError};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// What libraries may log at most, whatever is asked for: below INFO they print requests with their
/// bodies, and so secrets. lapin prints returned messages with their bodies at WARN, and what it
/// says at ERROR the queue says itself. A target covers every module whose path begins with it.
const CLAMPED: [(&str, LevelFilter); 14] = [
    ("aws_", LevelFilter::INFO),
    ("hyper", LevelFilter::INFO),
    ("h2", LevelFilter::INFO),
    ("rustls", LevelFilter::INFO),
    ("tokio_rustls", LevelFilter::INFO),
    ("lapin", LevelFilter::OFF),
    ("amq_protocol", LevelFilter::OFF),
    ("async_rs", LevelFilter::INFO),
    ("tokio_postgres", LevelFilter::INFO),
    ("postgres_protocol", LevelFilter::INFO),
    ("refinery", LevelFilter::INFO),
    ("opentelemetry", LevelFilter::INFO),
    ("tower", LevelFilter::INFO),
    ("want", LevelFilter::INFO),
];

/// What is logged at `level`: whatever it is, libraries that would print bodies stay at INFO, and
/// so does the audit.
#[must_use]
pub fn targets(level: LevelFilter) -> Targets {
    CLAMPED
        .into_iter()
        .fold(
            Targets::new().with_default(level),
            |targets, (name, most)| targets.with_target(name, level.min(most)),
        )
        .with_target("audit", LevelFilter::INFO)
        .with_target(TARGET, LevelFilter::OFF)
}

/// Writes logs to standard error, and sends traces if there is a way. A second call changes nothing.
pub fn start(level: LevelFilter, format: Format, traces: Option<&Traces>) {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines.with_ansi(false).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(targets(level)))
        .with(traces.map(|traces| {
            // Events are the log's.
            let spans = Targets::new().with_target(TARGET, LevelFilter::INFO);
            tracing_opentelemetry::layer()
                .with_tracer(traces.tracer())
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_tracked_inactivity(false)
                .with_filter(spans)
        }))
        .try_init();
}
