//! Faults to order: the crash matrix (`tests/it/crash_matrix.rs`) has a worker stop, fail or repeat
//! itself where it commits a step or changes something outside the ledger. Only debug builds read
//! orders; in others every place is just passed.
//!
//! An order is a file in the directory of [`take_orders`], named after whom it concerns: a lease's
//! role, or without a lease the command's id or the lease's. Its lines are `<fault> <place>`, for
//! one place after the other; each happens once. A place is the lease's state and what happens.
//!
//! With a directory `migrations` in it, a worker is of a later version: it knows those as well
//! (`tests/it/fleet.rs`).

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use refinery::Migration;

static ORDERS: OnceLock<PathBuf> = OnceLock::new();

/// Whoever reads and writes an order is alone with it.
static TURN: Mutex<()> = Mutex::new(());

/// From now on orders are read from this directory.
pub fn take_orders(directory: PathBuf) {
    ORDERS.get_or_init(|| directory);
}

fn orders() -> Option<&'static Path> {
    let orders = ORDERS.get().filter(|_| cfg!(debug_assertions));
    orders.map(PathBuf::as_path)
}

/// The migrations of a later version, if orders make this one.
#[must_use]
pub fn further_migrations() -> Vec<Migration> {
    let Some(directory) = orders().map(|orders| orders.join("migrations")) else {
        return Vec::new();
    };
    if !directory.exists() {
        return Vec::new();
    }
    refinery::load_sql_migrations(directory).unwrap_or_else(|error| {
        tracing::error!(%error, "migrations that were ordered cannot be read");
        Vec::new()
    })
}

/// What is ordered for a place, if anything is.
#[derive(Default)]
pub struct Fault(Option<Ordered>);

struct Ordered {
    order: PathBuf,
    line: String,
}

/// What is ordered for this place, which is passed now: `what` is about to happen to a lease of this
/// role and state, or without a lease to `whom`.
pub fn at(
    lease: Option<(&str, &str)>,
    whom: impl FnOnce() -> String,
    what: impl FnOnce() -> String,
) -> Fault {
    let Some(orders) = orders() else {
        return Fault::default();
    };
    let (whom, state) = lease.map_or_else(
        || (whom(), "none"),
        |(role, state)| (role.to_owned(), state),
    );
    let (order, place) = (orders.join(whom), format!("{state}.{}", what()));
    let _alone = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    match take(&order, &place) {
        Ok(line) => Fault(line.map(|line| Ordered { order, line })),
        Err(error) => {
            tracing::error!(%error, order = %order.display(), "an order cannot be read");
            Fault::default()
        }
    }
}

/// Lets something happen as it is ordered for this place; `failed` makes the error of a fault.
///
/// # Errors
/// Its own, or the one that was ordered.
pub async fn around<T, E, Happening: Future<Output = Result<T, E>>>(
    fault: Fault,
    failed: impl Fn() -> E,
    happen: impl Fn() -> Happening,
) -> Result<T, E> {
    fault.before(&failed).await?;
    let mut happened = happen().await?;
    if fault.is("twice") {
        happened = happen().await?;
    }
    fault.after(&failed).await?;
    Ok(happened)
}

impl Fault {
    /// What was ordered to come before.
    ///
    /// # Errors
    /// The one that was ordered.
    pub async fn before<E>(&self, failed: impl Fn() -> E) -> Result<(), E> {
        self.meet("stop_before", "fail_before", failed).await
    }

    /// What was ordered to come after.
    ///
    /// # Errors
    /// The one that was ordered.
    pub async fn after<E>(&self, failed: impl Fn() -> E) -> Result<(), E> {
        self.meet("stop_after", "fail_after", failed).await
    }

    async fn meet<E>(&self, stop: &str, fail: &str, failed: impl Fn() -> E) -> Result<(), E> {
        let Some(ordered) = &self.0 else {
            return Ok(());
        };
        if self.is(stop) {
            ordered.stop().await;
        }
        if self.is(fail) { Err(failed()) } else { Ok(()) }
    }

    fn is(&self, fault: &str) -> bool {
        let ordered = self.0.as_ref();
        ordered.is_some_and(|ordered| ordered.line.split(' ').next() == Some(fault))
    }
}

impl Ordered {
    /// Stays here, and marks it, until somebody removes the mark or ends the process.
    async fn stop(&self) {
        const LOOK: Duration = Duration::from_millis(20);
        let stopped = Stopped(self);
        if let Err(error) = fs::write(stopped.mark(), "") {
            tracing::error!(%error, "a stop cannot be marked");
        }
        while stopped.mark().exists() {
            tokio::time::sleep(LOOK).await;
        }
        std::mem::forget(stopped);
    }
}

/// Somebody who stays at a place. Given up by a timeout, the order is as good as new.
struct Stopped<'a>(&'a Ordered);

impl Stopped<'_> {
    fn mark(&self) -> PathBuf {
        self.0.order.with_added_extension("stopped")
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _alone = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let later = fs::read_to_string(&self.0.order).unwrap_or_default();
        let renewed = fs::write(&self.0.order, format!("{}\n{later}", self.0.line));
        if let Err(error) = renewed.and_then(|()| fs::remove_file(self.mark())) {
            tracing::error!(%error, "an order cannot be renewed");
        }
    }
}

/// Notes that a place is passed, and takes the order's first line if it is for this place.
fn take(order: &Path, place: &str) -> io::Result<Option<String>> {
    let passed = order.with_added_extension("passed");
    let mut passed = OpenOptions::new().create(true).append(true).open(passed)?;
    writeln!(passed, "{place}")?;
    let lines = match fs::read_to_string(order) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let (first, later) = lines.split_once('\n').unwrap_or((&lines, ""));
    if first.split_once(' ').map(|(_, place)| place) != Some(place) {
        return Ok(None);
    }
    if later.is_empty() {
        fs::remove_file(order)?;
    } else {
        fs::write(order, later)?;
    }
    Ok(Some(first.to_owned()))
}
