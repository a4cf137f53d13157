//! `keycard worker`.

use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Failure, stack};
use crate::app::{self, AppError};
use crate::config::{Config, Environment};
use crate::injection;
use crate::metrics::{self, Readiness};

pub(super) async fn run(path: Option<&Path>, environment: &Environment) -> Result<(), Failure> {
    stack::make_room(environment);
    let config = Config::load(path, environment)?;
    config.check_passwords()?;
    if let Some(orders) = environment.fault_orders() {
        injection::take_orders(orders);
    }
    let stop = CancellationToken::new();
    stop_on_signals(&stop)?;
    let mut readiness = None;
    if let Some(address) = config.worker.metrics_address {
        let told = Arc::new(Readiness::new(config.databases.keys()));
        let serving = metrics::serve(address, Arc::clone(&told)).await;
        serving.map_err(|error| Failure::Failed(error.to_string()))?;
        readiness = Some(told);
    }
    let worker = match app::worker(&config, readiness, &stop).await {
        Err(AppError::Stopped) => return Ok(()),
        built => Arc::new(built?),
    };
    tracing::info!(
        installation = config.installation,
        databases = config.databases.len(),
        roles = config.roles.len(),
        "keycard serves"
    );
    worker
        .run(config.worker.shutdown_grace)
        .await
        .map_err(|stopped| Failure::Failed(stopped.to_string()))?;
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
