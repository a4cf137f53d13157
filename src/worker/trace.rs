//! What is done for a command belongs to the trace of whoever sent it.

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tokio::time::timeout;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use uuid::Uuid;

use super::carry::Context;
use crate::ledger::Ledger;
use crate::metrics::Stage;

/// The span of a lease that is carried on: within the command's trace if a command has caused it,
/// else the first of its own.
pub(super) fn carrying(context: Context<'_>) -> Span {
    let name = match (context.asked, context.expire) {
        (Some(asked), _) => asked.kind.as_str(),
        (None, Some(_)) => "expire",
        (None, None) => "look after",
    };
    let span = tracing::info_span!(
        target: "trace",
        "carry",
        otel.name = name,
        otel.kind = "consumer",
        database = context.ledger.database(),
        request.id = context.asked.map(|asked| asked.id.as_str()),
        request.by = context.asked.map(|asked| asked.requester.as_str()),
        lease.id = Empty,
        lease.role = Empty,
    );
    let traceparent = context.asked.and_then(|asked| asked.traceparent.clone());
    if let Some(traceparent) = traceparent.filter(|_| !span.is_disabled()) {
        // A span that was not sampled needs no parent.
        let _ = span.set_parent(remote(traceparent));
    }
    span
}

/// Nobody asks for an expiry: its span names the request that the lease is from as another trace,
/// if that had one.
pub(super) async fn link(ledger: &Ledger, lease: Uuid) {
    /// Traces are worth no failure, and no wait for a database that has none to spare.
    const PATIENCE: Duration = Duration::from_secs(1);
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    match timeout(PATIENCE, ledger.traceparent(lease)).await {
        Ok(Ok(Some(traceparent))) => {
            span.add_link(remote(traceparent).span().span_context().clone());
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a lease's trace could not be looked up"),
        Err(_) => tracing::debug!("a lease's trace could not be looked up in time"),
    }
}

/// What a traceparent names; what is no traceparent names no trace. The library takes numbers that are
/// too short or too long.
fn remote(traceparent: String) -> opentelemetry::Context {
    let mut carrier = HashMap::new();
    let lengths = traceparent.split('-').map(str::len).take(4);
    if lengths.eq([2, 32, 16, 2]) {
        carrier.insert("traceparent".to_owned(), traceparent);
    }
    TraceContextPropagator::new().extract_with_context(&opentelemetry::Context::new(), &carrier)
}

/// The span of one stage, within the one that is carried on.
pub(super) fn stage(stage: Stage) -> Span {
    tracing::info_span!(
        target: "trace",
        "stage",
        otel.name = stage.as_str(),
        otel.status_code = Empty,
    )
}

/// The stage failed. Why is in the log.
pub(super) fn failed(span: &Span) {
    span.record("otel.status_code", "ERROR");
}
