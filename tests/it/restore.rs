//! Ledgers that find themselves elsewhere than they were written, or earlier than the store.

mod adopting;
mod copies;
mod dumps;
mod rewound;

use std::fs;

use serde_json::Value;

use crate::support::client::{Client, SOON};
use crate::support::eventually;
use crate::support::process::Output;
use crate::support::servers::Postgres;
use crate::support::site::Site;

/// A lease as the `issued` event told it.
struct Lease {
    id: String,
    username: String,
    password: String,
    secret: String,
}

impl Lease {
    async fn new(orders: &Client) -> Self {
        Self::with_ttl(orders, None).await
    }

    async fn with_ttl(orders: &Client, seconds: Option<i64>) -> Self {
        let issued = orders.issued("app-role", seconds).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            id: text(&issued["lease_id"]),
            username: text(&issued["username"]),
            password: text(&Site::secret(&issued)["password"]),
            secret: text(&issued["secret"]["locator"]),
        }
    }

    fn has_secret(&self) -> bool {
        fs::exists(&self.secret).unwrap()
    }

    async fn can_log_in(&self, site: &Site) -> bool {
        site.login(&self.username, &self.password).await.is_ok()
    }

    /// From now on it is nearly over.
    async fn shorten(&self, orders: &Client) {
        let id = orders.renew(&self.id, Some(2)).await;
        assert_eq!(orders.answer(&id).await.kind(), "lease.renewed.v1");
    }

    /// Ends it by asking.
    async fn revoke(&self, orders: &Client) {
        let id = orders.revoke(&self.id).await;
        assert_eq!(orders.answer(&id).await.kind(), "lease.revoked.v1");
    }
}

/// Waits until a worker has compared secrets with the ledger since its server was started.
async fn until_compared(site: &Site) {
    let compared = "SELECT count(*) FROM keycard.ledger
                    WHERE server_started_at = pg_postmaster_start_time()";
    eventually("secrets were looked for", SOON, async || {
        (site.count(compared).await == 1).then_some(())
    })
    .await;
}

/// Waits until the server has noticed that a worker was killed: until then it does what that was
/// about to do, and keeps its locks.
async fn until_left_alone(site: &Site) {
    let connected = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{}'",
        site.admin
    );
    eventually("nothing of the worker is left", SOON, async || {
        (site.count(&connected).await == 0).then_some(())
    })
    .await;
}

/// A server that lives as long as the tests.
fn keep(postgres: Postgres) -> &'static Postgres {
    Box::leak(Box::new(postgres))
}

/// The only version that has all the tools.
fn postgres_with_tools() -> &'static Postgres {
    keep(Postgres::start(15, &[], None))
}

/// Has a site's only database be another one, of another site's making.
fn lead_to(site: &mut Site, dbname: &str, maker: &Site) {
    site.rewrite(
        &format!("/{}\"\nusername", site.dbname),
        &format!("/{dbname}\"\nusername"),
    );
    site.rewrite(&site.admin, &maker.admin);
    site.rewrite(&site.group, &maker.group);
    dbname.clone_into(&mut site.dbname);
    maker.admin.clone_into(&mut site.admin);
    maker.group.clone_into(&mut site.group);
}

fn adopt(site: &Site, more: &[&str]) -> Output {
    site.keycard(&[&["adopt", "--database", "app"], more].concat())
}

/// Adopts, having looked that the explanation alone changes nothing; the explanation.
async fn explain_and_adopt(site: &Site, more: &[&str]) -> String {
    let explained = adopt(site, more);
    assert!(explained.status.success(), "{}", explained.stderr);
    assert!(explained.stdout.contains("Nothing was changed"));
    let said = site.worker_unready(&[]).refusal().await;
    assert!(said.contains("keycard adopt --database app"));
    let adopted = adopt(site, &[more, &["--yes"]].concat());
    assert!(adopted.status.success(), "{}", adopted.stderr);
    explained.stdout
}

/// The decisions that the audit has on a lease, or on none.
async fn audited(site: &Site, lease: Option<&Lease>) -> Vec<String> {
    let rows = site
        .sql()
        .await
        .query(
            "SELECT action FROM keycard.audit WHERE lease_id IS NOT DISTINCT FROM $1 ORDER BY id",
            &[&lease.map(|lease| lease.id.as_str())],
        )
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}
