//! Whoever judges is judged: each thing that must not be is found when it is so.

use serde_json::{Value, json};

use super::{Testimony, Violation, at_rest, lost, unsettled};
use crate::support::audit::Secrets;
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::site::Site;
use crate::support::steady::Steady;

/// A lease that lives, one that was given back, and a command that was denied.
struct Scene {
    site: Site,
    orders: Steady,
    living: Value,
    closed: Value,
}

impl Scene {
    async fn play() -> Self {
        let site = Site::usual().await;
        let worker = site.worker().await;
        let orders = Steady::start(&site, "orders-svc").await;
        for _ in 0..2 {
            orders.request("app-role");
        }
        let told = eventually("both are told", SOON, async || {
            Some(orders.issued()).filter(|told| told.len() == 2)
        })
        .await;
        let closed = told[1]["lease_id"].as_str().unwrap();
        orders.revoke(closed);
        orders.renew("app.01890a5d-ac96-774b-bcce-b302099a8057");
        let scene = Self {
            living: told[0].clone(),
            closed: told[1].clone(),
            site,
            orders,
        };
        let testify = || vec![Testimony::of(&scene.orders)];
        let secrets = Secrets::Files(&scene.site);
        let violations = unsettled(&scene.site, &secrets, testify, SOON).await;
        assert_eq!(violations, [], "before anything is wrong");
        drop(worker);
        scene
    }

    async fn assert_found(&self, testimony: Testimony, expected: &str) {
        let secrets = Secrets::Files(&self.site);
        let found = at_rest(&self.site, &secrets, &[testimony]).await;
        let is_expected = |violation: &Violation| violation.what.contains(expected);
        assert!(
            found.iter().any(is_expected),
            "{expected:?} is not in {found:#?}"
        );
    }

    /// What a superuser does to the database is found, until it is undone.
    async fn assert_seen(&self, wrong: &str, undo: &str, expected: &str) {
        let sql = self.site.sql().await;
        let username = self.living["username"].as_str().unwrap();
        let fill = |text: &str| {
            text.replace("USERNAME", username)
                .replace("GROUP", &self.site.group)
        };
        sql.batch_execute(&fill(wrong)).await.unwrap();
        self.assert_found(Testimony::of(&self.orders), expected)
            .await;
        sql.batch_execute(&fill(undo)).await.unwrap();
    }

    /// What the service did not hear, or heard otherwise.
    async fn assert_heard(&self, change: impl Fn(&mut Vec<Value>), expected: &str) {
        let mut testimony = Testimony::of(&self.orders);
        change(&mut testimony.heard);
        self.assert_found(testimony, expected).await;
    }
}

fn is(event: &Value, kind: &str) -> bool {
    event["type"] == format!("keycard.{kind}.v1")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_must_not_be_is_found() {
    let scene = Scene::play().await;
    of_logins(&scene).await;
    of_sessions(&scene).await;
    of_the_ledger(&scene).await;
    of_what_was_told(&scene).await;
    of_secrets(&scene).await;
    of_dead_letters(&scene).await;
}

async fn of_logins(scene: &Scene) {
    for (wrong, undo, expected) in [
        (
            "ALTER ROLE USERNAME VALID UNTIL 'infinity'",
            "UPDATE pg_authid SET rolvaliduntil =
                 (SELECT expires_at FROM keycard.leases WHERE username = rolname)
             WHERE rolname = 'USERNAME'",
            "VALID UNTIL infinity",
        ),
        (
            "ALTER ROLE USERNAME NOLOGIN",
            "ALTER ROLE USERNAME LOGIN",
            "a disabled login of a lease that lives",
        ),
        (
            "ALTER ROLE USERNAME CREATEDB",
            "ALTER ROLE USERNAME NOCREATEDB",
            "a login that may more than log in",
        ),
        (
            "CREATE ROLE kc_stray LOGIN IN ROLE GROUP",
            "DROP ROLE kc_stray",
            "a login without a lease",
        ),
        (
            "ALTER ROLE USERNAME RENAME TO other",
            "ALTER ROLE other RENAME TO USERNAME",
            "a lease in state active without its login",
        ),
        (
            "UPDATE keycard.leases SET state = 'closed' WHERE username = 'USERNAME'",
            "UPDATE keycard.leases SET state = 'active' WHERE username = 'USERNAME'",
            "a login whose lease is closed",
        ),
        (
            "UPDATE keycard.leases SET state = 'revoking' WHERE username = 'USERNAME'",
            "UPDATE keycard.leases SET state = 'active' WHERE username = 'USERNAME'",
            "a login that is being revoked and may log in",
        ),
    ] {
        scene.assert_seen(wrong, undo, expected).await;
    }
}

async fn of_sessions(scene: &Scene) {
    let sql = scene.site.sql().await;
    // Roles belong to all the databases of the server.
    let role = format!("short_{}", scene.site.name);
    let create = format!("CREATE ROLE {role} LOGIN PASSWORD 'short'");
    sql.batch_execute(&create).await.unwrap();
    let session = scene.site.login(&role, "short").await.unwrap();
    let drop_role = format!("DROP ROLE {role}");
    sql.batch_execute(&drop_role).await.unwrap();
    let told = Testimony::of(&scene.orders);
    scene
        .assert_found(told, "1 sessions of logins that are gone")
        .await;
    drop(session);
}

async fn of_the_ledger(scene: &Scene) {
    let free = "ALTER TABLE keycard.audit DISABLE TRIGGER ALL";
    scene.site.sql().await.batch_execute(free).await.unwrap();
    for (wrong, undo, expected) in [
        (
            "UPDATE keycard.audit SET action = 'issued' WHERE action = 'closed'",
            "UPDATE keycard.audit SET action = 'closed' WHERE action = 'issued'
                 AND cause IS NOT NULL",
            "closed, and audited as",
        ),
        (
            "UPDATE keycard.audit SET action = 'disabled' WHERE action = 'closed'",
            "UPDATE keycard.audit SET action = 'closed' WHERE action = 'disabled'",
            "closed, and audited as",
        ),
        (
            "UPDATE keycard.leases SET generation = 2 WHERE username = 'USERNAME'",
            "UPDATE keycard.leases SET generation = 1 WHERE username = 'USERNAME'",
            "active, and audited as",
        ),
        (
            "UPDATE keycard.leases SET cause = 'operator' WHERE state = 'closed'",
            "UPDATE keycard.leases SET cause = 'requested' WHERE state = 'closed'",
            "another cause than audited",
        ),
        (
            "UPDATE keycard.leases SET cause = 'expired' WHERE state = 'closed'",
            "UPDATE keycard.leases SET cause = 'requested' WHERE state = 'closed'",
            "ended early",
        ),
        (
            "UPDATE keycard.audit SET code = 'other' WHERE action = 'denied'",
            "UPDATE keycard.audit SET code = 'lease_unknown' WHERE action = 'denied'",
            "0 audit rows for the denial lease_unknown",
        ),
        (
            "UPDATE keycard.requests SET published_at = NULL WHERE kind = 'renew'",
            "UPDATE keycard.requests SET published_at = clock_timestamp()",
            "its answer is not published",
        ),
        (
            "UPDATE keycard.requests SET id = 'other' WHERE kind = 'renew'",
            "UPDATE keycard.requests SET id = answer::json->'data'->'request'->>'id'
             WHERE kind = 'renew'",
            "the ledger knows what orders-svc never sent",
        ),
        (
            "UPDATE keycard.leases SET state = 'dropped' WHERE state = 'closed'",
            "UPDATE keycard.leases SET state = 'closed' WHERE state = 'dropped'",
            "still dropped",
        ),
    ] {
        scene.assert_seen(wrong, undo, expected).await;
    }
}

async fn of_what_was_told(scene: &Scene) {
    let denied = |event: &Value| is(event, "request.denied");
    let notice = |event: &Value| is(event, "lease.revoked") && event.get("correlationid").is_none();
    scene
        .assert_heard(|heard| heard.retain(|event| !denied(event)), "not answered")
        .await;
    scene
        .assert_heard(
            |heard| {
                let mut other = heard.iter().find(|event| denied(event)).unwrap().clone();
                other["id"] = json!("other");
                heard.push(other);
            },
            "answered by",
        )
        .await;
    scene
        .assert_heard(
            |heard| {
                let answer = heard.iter_mut().find(|event| denied(event)).unwrap();
                answer["correlationid"] = json!("other");
            },
            "heard an answer to what it never asked",
        )
        .await;
    scene
        .assert_heard(
            |heard| heard.retain(|event| !notice(event)),
            "its end was told as []",
        )
        .await;
    scene
        .assert_heard(
            |heard| {
                let end = heard.iter_mut().find(|event| notice(event)).unwrap();
                end["data"]["lease_id"] = scene.living["lease_id"].clone();
            },
            "active, and its end was told",
        )
        .await;
    scene
        .assert_heard(
            |heard| {
                let is_issued = |event: &&mut Value| is(event, "credential.issued");
                let issued = heard.iter_mut().find(is_issued).unwrap();
                issued["data"]["username"] = json!("another");
            },
            "told to orders-svc as",
        )
        .await;
    let mut testimony = Testimony::of(&scene.orders);
    testimony
        .sent
        .retain(|command| command["type"] != "keycard.lease.revoke.v1");
    scene.assert_found(testimony, "ended early").await;
}

async fn of_secrets(scene: &Scene) {
    let here = scene.living["secret"]["locator"].as_str().unwrap();
    let gone = scene.closed["secret"]["locator"].as_str().unwrap();
    let secret = std::fs::read_to_string(here).unwrap();
    let of_closed = secret.replace(
        scene.living["lease_id"].as_str().unwrap(),
        scene.closed["lease_id"].as_str().unwrap(),
    );
    std::fs::write(gone, of_closed).unwrap();
    let told = || Testimony::of(&scene.orders);
    scene.assert_found(told(), "its secrets are there").await;
    std::fs::write(gone, secret.replace("app.", "app.0")).unwrap();
    scene.assert_found(told(), "secrets of no lease").await;
    std::fs::rename(here, gone).unwrap();
    scene.assert_found(told(), "the store has").await;
}

async fn of_dead_letters(scene: &Scene) {
    let _worker = scene.site.worker().await;
    scene.orders.publish("requests", "nonsense".to_owned());
    scene.orders.publish("requests", "known".to_owned());
    let unreadable = ["known".to_owned(), "never sent".to_owned()].into();
    let mut found = Vec::new();
    let mut seen = |text: &str, more: Vec<Violation>| {
        found.extend(more);
        let is_it = |violation: &&Violation| violation.what.contains(text);
        found.iter().find(is_it).cloned()
    };
    eventually("nonsense is found", SOON, async || {
        seen("a dead letter", lost(&scene.site, &unreadable).await)
    })
    .await;
    eventually("what is not there is found", SOON, async || {
        seen("\"never sent\"", lost(&scene.site, &unreadable).await)
    })
    .await;
}
