//! Somebody who looks at logins and leases all the time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::support::invariants::standing;

use super::town::Town;

const LOOK: Duration = Duration::from_millis(100);

pub struct Watching {
    over: CancellationToken,
    looks: AbortOnDropHandle<()>,
}

impl Watching {
    /// After one more look.
    pub async fn end(self) {
        self.over.cancel();
        self.looks.await.unwrap();
    }
}

pub fn start(town: &Arc<Town>) -> Watching {
    let over = CancellationToken::new();
    let (town, stop) = (Arc::clone(town), over.clone());
    let looks = tokio::spawn(async move {
        while !stop.is_cancelled() {
            look(&town, &stop).await;
            sleep(LOOK).await;
        }
    });
    Watching {
        over,
        looks: AbortOnDropHandle::new(looks),
    }
}

/// Until the connection is lost, as Postgres goes away now and then.
async fn look(town: &Town, stop: &CancellationToken) {
    let Some(sql) = town.superuser().await else {
        return;
    };
    while let Ok(violations) = standing(&sql, &town.site.group).await {
        for violation in violations {
            town.find(violation);
        }
        if stop.is_cancelled() {
            return;
        }
        sleep(LOOK).await;
    }
}
