//! Everything tampered with at once: looking, and carrying out.

use std::fs;

use super::{Lease, close_by_hand, exists, expected, put_secret, reconcile, state};
use crate::support::client::{Client, SOON};
use crate::support::servers::own_postgres;
use crate::support::site::{Site, Wishes};

/// Everything that keycard could have changed.
async fn everything(site: &Site) -> Vec<String> {
    let rows = site
        .sql()
        .await
        .query(
            "SELECT rolname || ' ' || oid || ' ' || rolcanlogin || coalesce(rolvaliduntil::text, '')
             FROM pg_roles
             UNION ALL SELECT l::text FROM keycard.leases l ORDER BY 1",
            &[],
        )
        .await
        .unwrap();
    let rows = rows.iter().map(|row| row.get(0));
    let files = site.secret_files();
    let mut files: Vec<String> = files
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    files.sort_unstable();
    rows.chain(files).collect()
}

/// A site in which somebody has tampered with everything, while no worker was there.
struct Tampered {
    orders: Client,
    site: Site,
    /// Nobody has touched it.
    kept: Lease,
    /// Its login was dropped.
    missing: Lease,
    /// It was closed in the ledger alone, with a session open.
    left: Lease,
    /// So was this, and its login owns a table.
    owner: Lease,
    /// It is closed, and another role has taken its login's name.
    reborn: Lease,
    sessions: [tokio_postgres::Client; 2],
    /// Secrets of another installation and of nobody.
    foreign: [String; 2],
    /// A secret of this installation whose lease the ledger does not know.
    unproven: String,
}

impl Tampered {
    async fn new() -> Self {
        let site = Site::new(Wishes {
            // The neighbours' logins would be look-alikes.
            postgres: own_postgres(&[]),
            ..Wishes::default()
        })
        .await;
        let mut worker = site.worker().await;
        let orders = site.client("orders-svc").await;
        let tampered = Self {
            kept: Lease::new(&orders).await,
            missing: Lease::new(&orders).await,
            left: Lease::new(&orders).await,
            owner: Lease::new(&orders).await,
            reborn: Lease::new(&orders).await,
            sessions: [site.sql().await, site.sql().await],
            foreign: [
                put_secret(&site, Some("another-installation")).await,
                put_secret(&site, None).await,
            ],
            unproven: String::new(),
            orders,
            site,
        };
        let revoked = tampered.orders.revoke(&tampered.reborn.id).await;
        tampered.orders.answer(&revoked).await;
        worker.kill();
        assert_eq!(reconcile(&tampered.site, &[]), (Some(0), vec![]));
        tampered.tamper().await
    }

    async fn tamper(mut self) -> Self {
        let (site, left, owner) = (&self.site, &self.left, &self.owner);
        let grant = format!("GRANT CREATE ON SCHEMA public TO {}", site.group);
        site.superuser(&grant).await;
        self.sessions = [
            site.login(&left.username, &left.password).await.unwrap(),
            site.login(&owner.username, &owner.password).await.unwrap(),
        ];
        let own = "CREATE TABLE public.mine ()";
        self.sessions[1].batch_execute(own).await.unwrap();
        close_by_hand(site, &left.id).await;
        close_by_hand(site, &owner.id).await;
        let roles = format!(
            "DROP ROLE {}; CREATE ROLE {} LOGIN PASSWORD 'other'; CREATE ROLE kc_lookalike LOGIN",
            self.missing.username, self.reborn.username
        );
        site.superuser(&roles).await;
        self.unproven = put_secret(site, Some(&site.name)).await;
        self
    }

    /// What is found, with what becomes of the lease without login, the login and the secret that
    /// were left, and those of the login that owns something.
    fn found(&self, became: [&str; 5]) -> Vec<(String, String, String)> {
        let [missing, left, left_secret, owner, owner_secret] = became;
        expected(vec![
            ("login_missing", missing, &self.missing.username),
            ("login_left", left, &self.left.username),
            ("login_left", owner, &self.owner.username),
            ("login_unproven", "reported", &self.reborn.username),
            ("login_unproven", "reported", "kc_lookalike"),
            ("secret_left", left_secret, &self.left.locator()),
            ("secret_left", owner_secret, &self.owner.locator()),
            ("secret_unproven", "reported", &self.unproven),
        ])
    }

    fn would(&self) -> Vec<(String, String, String)> {
        let (drop, delete) = ("would_drop", "would_delete");
        self.found(["would_close", drop, delete, drop, delete])
    }

    /// What nobody proves stays as it is.
    async fn assert_nothing_foreign_was_touched(&self) {
        let site = &self.site;
        site.login(&self.reborn.username, "other").await.unwrap();
        assert!(exists(site, "kc_lookalike").await);
        for locator in self.foreign.iter().chain([&self.unproven]) {
            let value = fs::read_to_string(site.secrets.join(locator)).unwrap();
            assert_eq!(value, "precious");
        }
        let kept = &self.kept;
        site.login(&kept.username, &kept.password).await.unwrap();
        assert_eq!(state(site, kept).await, "active");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_finds_what_differs_and_changes_nothing() {
    let tampered = Tampered::new().await;
    let site = &tampered.site;
    let before = everything(site).await;
    assert_eq!(reconcile(site, &[]), (Some(4), tampered.would()));
    let table = site.keycard(&["reconcile"]).stdout;
    let line = table
        .lines()
        .find(|line| line.starts_with("login_missing"))
        .unwrap();
    for cell in [
        "would close",
        &tampered.missing.username,
        &tampered.missing.id,
    ] {
        assert!(line.contains(cell), "{table}");
    }

    // Only one keycard at a time carries anything out.
    let other = site.sql().await;
    other
        .batch_execute("SELECT pg_advisory_lock(x'7265636f6e63696c'::bigint)")
        .await
        .unwrap();
    let refused = site.keycard(&["reconcile", "--apply"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = &refused.stderr;
    assert!(said.contains("another keycard"), "{said}");
    assert_eq!(reconcile(site, &[]), (Some(4), tampered.would()));
    assert_eq!(everything(site).await, before);
    drop(other);
    tampered.assert_nothing_foreign_was_touched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_ledger_proves_is_carried_out_and_the_rest_reported() {
    let tampered = Tampered::new().await;
    let (site, orders) = (&tampered.site, &tampered.orders);
    let (missing, left, owner) = (&tampered.missing, &tampered.left, &tampered.owner);
    let (code, applied) = reconcile(site, &["--apply"]);
    let later = "unfinished";
    let became = ["closed", "dropped", "deleted", later, later];
    assert_eq!(applied, tampered.found(became));
    assert_eq!(code, Some(4));
    for lease in [missing, left] {
        assert_eq!(state(site, lease).await, "closed");
        assert!(!exists(site, &lease.username).await);
        assert!(!site.secrets.join(lease.locator()).exists());
    }
    for session in &tampered.sessions {
        assert!(session.simple_query("SELECT 1").await.is_err());
    }
    assert_eq!(state(site, owner).await, "revoking");
    assert!(site.login(&owner.username, &owner.password).await.is_err());
    let told = orders.notice("lease.revoked.v1", &missing.id, SOON).await;
    assert_eq!(told.data()["cause"], "missing");
    let told = orders.notice("lease.revoked.v1", &left.id, SOON).await;
    assert_eq!(told.data()["sessions_terminated"], 1);
    tampered.assert_nothing_foreign_was_touched().await;

    // Once a person has judged what was reported, all agree.
    let judged = format!(
        "DROP ROLE kc_lookalike; DROP ROLE {}",
        tampered.reborn.username
    );
    site.superuser(&judged).await;
    fs::remove_file(site.secrets.join(&tampered.unproven)).unwrap();
    assert_eq!(reconcile(site, &["--apply"]), (Some(0), vec![]));
    let agreed = site.keycard(&["reconcile"]);
    assert_eq!(agreed.stdout, "Ledgers, logins and secrets agree.\n");
}
