//! `keycard worker`.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use super::{Failure, stack};
use crate::app::{self, AppError};
use crate::config::{Config, Environment};
use crate::injection;
use crate::metrics::{self, Readiness};
use crate::telemetry::{self, Format, Traces};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Do what waits in the queue, look once after each database, and end.
    #[arg(long)]
    drain: bool,
}

pub(super) async fn run(
    path: Option<&Path>,
    environment: &Environment,
    arguments: &Arguments,
    (level, format): (LevelFilter, Format),
) -> Result<(), Failure> {
    stack::make_room(environment);
    let config = Config::load(path, environment)?;
    let endpoint = config.worker.otlp_endpoint.as_deref();
    let traces = endpoint
        .map(|endpoint| Traces::to(endpoint, &config.installation))
        .transpose()
        .map_err(|error| Failure::Failed(error.to_string()))?;
    telemetry::start(level, format, traces.as_ref());
    if let Some(endpoint) = endpoint {
        tracing::info!(address = endpoint, "traces are sent");
    }
    let done = serve(&config, environment, arguments).await;
    if let Some(traces) = traces {
        traces.finish().await;
    }
    done
}

async fn serve(
    config: &Config,
    environment: &Environment,
    arguments: &Arguments,
) -> Result<(), Failure> {
    config.check_passwords()?;
    if let Some(orders) = environment.fault_orders() {
        injection::take_orders(orders);
    }
    let stop = CancellationToken::new();
    stop_on_signals(&stop)?;
    let mut readiness = None;
    // Nobody reads a run that ends, and a worker beside it may have the address.
    if let Some(address) = config.worker.metrics_address.filter(|_| !arguments.drain) {
        let told = Arc::new(Readiness::new(config.databases.keys()));
        let serving = metrics::serve(address, Arc::clone(&told)).await;
        serving.map_err(|error| Failure::Failed(error.to_string()))?;
        app::count_from_zero(config);
        readiness = Some(told);
    }
    let patience = arguments.drain.then_some(app::PATIENCE);
    let worker = match app::worker(config, readiness, patience, &stop).await {
        Err(AppError::Stopped) if !arguments.drain => return Ok(()),
        built => Arc::new(built?),
    };
    tracing::info!(
        installation = config.installation,
        databases = config.databases.len(),
        roles = config.roles.len(),
        "{}",
        if arguments.drain {
            "keycard drains"
        } else {
            "keycard serves"
        }
    );
    let grace = config.worker.shutdown_grace;
    let stopped = if arguments.drain {
        worker.drain(grace).await
    } else {
        worker.run(grace).await
    };
    stopped.map_err(|stopped| Failure::Failed(stopped.to_string()))?;
    tracing::info!("keycard has stopped");
    Ok(())
}

fn stop_on_signals(stop: &CancellationToken) -> Result<(), Failure> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind)
            .map_err(|error| Failure::Failed(format!("signals cannot be handled: {error}")))?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
    Ok(())
}
