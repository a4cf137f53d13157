//! What is done for a command belongs to the trace of whoever sent it.

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::carry::Context;
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
        let carrier = HashMap::from([("traceparent".to_owned(), traceparent)]);
        // What is no traceparent names no trace; a span that was not sampled needs none.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
    }
    span
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
