//! What an auditor finds: who had which credential, why it ended, who was refused.

mod kept;

use serde_json::{Value, json};

use crate::support::client::{Client, SOON, fresh_id};
use crate::support::eventually;
use crate::support::site::Site;

impl Site {
    /// What `keycard audit` knows.
    fn audit(&self, filter: &[&str]) -> Vec<Value> {
        let arguments = [&["audit", "--output", "json"], filter].concat();
        let output = self.keycard(&arguments);
        assert!(output.status.success(), "{}", output.stderr);
        serde_json::from_str(&output.stdout).unwrap()
    }

    /// Waits for the last decision on a lease; all of them.
    async fn audit_until(&self, decision: &str, lease_id: &str) -> Vec<Value> {
        eventually(&format!("{lease_id} is {decision}"), SOON, async || {
            let rows = self.audit(&["--lease", lease_id]);
            rows.last()
                .is_some_and(|row| row["decision"] == decision)
                .then_some(rows)
        })
        .await
    }
}

fn column<'a>(rows: &'a [Value], name: &str) -> Vec<&'a str> {
    rows.iter()
        .map(|row| row[name].as_str().unwrap_or("-"))
        .collect()
}

/// Asks, and waits for the code of the denial.
async fn denied(client: &Client, exchange: &str, command: &Value) -> String {
    let answers = client.say_again(exchange, command).await;
    answers.last().unwrap().denial().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life_leaves_one_row_and_one_line_for_each_decision() {
    let site = Site::usual().await;
    // At this level nothing says that a worker serves; what the first has declared is enough.
    drop(site.worker().await);
    let worker = site.worker_at("error", &[]);
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", Some(600)).await;
    let lease_id = issued["lease_id"].as_str().unwrap();
    // It ends soon from then on, however long it took to come to that.
    let renewal = orders.renew(lease_id, Some(3)).await;
    let renewed = orders.answer(&renewal).await;
    let revoked = orders.notice("lease.revoked.v1", lease_id, SOON).await;
    let rows = site.audit_until("closed", lease_id).await;

    let decisions = column(&rows, "decision");
    assert_eq!(
        decisions,
        ["created", "issued", "renewed", "revoked", "closed"]
    );
    for row in &rows {
        for (field, value) in [
            ("lease_id", &issued["lease_id"]),
            ("username", &issued["username"]),
            ("role", &json!("app-role")),
            ("requester", &json!("orders-svc")),
            ("code", &Value::Null),
        ] {
            assert_eq!(row[field], *value, "{row}");
        }
    }
    let asked_by = column(&rows, "asked_by");
    assert_eq!(asked_by, ["orders-svc", "-", "orders-svc", "-", "-"]);
    assert_eq!(
        column(&rows, "cause"),
        ["-", "-", "-", "expired", "expired"]
    );
    assert_eq!(rows[0]["expires_at"], issued["expires_at"]);
    let source = "/orders-svc";
    assert_eq!(
        rows[2]["request"],
        json!({ "source": source, "id": renewal })
    );
    assert_eq!(rows[2]["expires_at"], renewed.data()["expires_at"]);
    assert_eq!(
        (&rows[1]["generation"], &rows[2]["generation"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(rows[3]["at"], revoked.data()["revoked_at"]);
    assert_eq!(site.audit(&[]), rows, "nothing else was decided");

    // The lines are written though nothing else below ERROR is, each after its row.
    let log = eventually("the last line is written", SOON, async || {
        Some(worker.log()).filter(|log| log.contains(" audit: closed "))
    })
    .await;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("INFO")).collect();
    assert_eq!(lines.len(), rows.len(), "{log}");
    for (line, row) in lines.iter().zip(&rows) {
        let words = format!(" audit: {} ", row["decision"].as_str().unwrap());
        assert!(line.contains(&words), "{line}");
        assert!(line.contains(&format!("lease.id={lease_id:?}")), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_revocations_say_who_asked_and_why() {
    let site = Site::with_mallory().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let mallory = site.client("mallory").await;
    let operator = site.client("platform-ops").await;
    let first = orders.asking(&fresh_id(), "app-role");
    orders.say("requests", &first).await;
    let issued = orders.answer(first["id"].as_str().unwrap()).await;
    let lease_id = issued.lease_id();
    let revocation = |client: &Client, lease_id: &str| {
        let data = json!({ "lease_id": lease_id, "reason": "leaked, ticket 7" });
        client.event(&fresh_id(), "lease.revoke.v1", data)
    };
    let elsewhere = format!("other-db.{}", fresh_id());
    let mut wrong = orders.asking(&fresh_id(), "app-role");
    wrong["data"]["ttl_seconds"] = json!(0);
    let mut again = first.clone();
    again["data"]["ttl_seconds"] = json!(60);
    let role = |name| mallory.asking(&fresh_id(), name);
    let foreign = revocation(&mallory, lease_id);
    let unknown = revocation(&mallory, &elsewhere);
    for (client, exchange, command, code) in [
        (&mallory, "requests", role("app-role"), "role_not_allowed"),
        (&mallory, "requests", role("no-such"), "role_not_allowed"),
        (&mallory, "leases", foreign, "lease_unknown"),
        (&mallory, "leases", unknown, "lease_unknown"),
        (&orders, "requests", wrong, "ttl_invalid"),
        (&orders, "requests", again, "request_id_reused"),
    ] {
        assert_eq!(denied(client, exchange, &command).await, code);
    }
    let leaked = revocation(&operator, lease_id);
    operator.say("leases", &leaked).await;
    let rows = site.audit_until("closed", lease_id).await;
    assert_eq!(denied(&orders, "requests", &first).await, "lease_ended");

    assert_eq!(
        column(&rows, "decision"),
        ["created", "issued", "denied", "revoked", "closed"]
    );
    assert_eq!(rows[2]["asked_by"], "mallory");
    assert_eq!(rows[2]["requester"], "orders-svc");
    assert_eq!(rows[3]["asked_by"], "platform-ops");
    assert_eq!(rows[3]["cause"], "operator");
    assert_eq!(rows[3]["reason"], "leaked, ticket 7");
    assert_eq!(rows[3]["request"]["id"], leaked["id"]);

    let rows = site.audit(&["--requester", "mallory"]);
    assert_eq!(
        column(&rows, "code"),
        [
            "role_not_allowed",
            "role_not_allowed",
            "lease_unknown",
            "lease_unknown"
        ]
    );
    assert_eq!(
        column(&rows, "role"),
        ["app-role", "no-such", "app-role", "-"]
    );
    assert_eq!(
        column(&rows, "lease_id"),
        ["-", "-", lease_id, elsewhere.as_str()]
    );
    let rows = site.audit(&["--requester", "orders-svc"]);
    let mut codes = column(&rows, "code");
    codes.retain(|code| *code != "-");
    assert_eq!(
        codes,
        [
            "lease_unknown",
            "ttl_invalid",
            "request_id_reused",
            "lease_ended"
        ]
    );
    assert_eq!(rows.last().unwrap()["lease_id"], lease_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn keycard_audit_finds_what_it_is_asked_for() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let billing = site.client("billing-svc").await;
    let issued = orders.issued("app-role", None).await;
    let lease_id = issued["lease_id"].as_str().unwrap();
    billing.issued("app-role", None).await;
    let denied = billing.request("no-such", None).await;
    billing.answer(&denied).await;
    orders.answer(&orders.revoke(lease_id).await).await;
    let life = site.audit_until("closed", lease_id).await;
    assert_eq!(life.len(), 4);

    let username = issued["username"].as_str().unwrap();
    assert_eq!(site.audit(&["--username", username]), life);
    assert_eq!(site.audit(&["--requester", "orders-svc"]), life);
    assert_eq!(site.audit(&["--requester", "billing-svc"]).len(), 3);
    assert_eq!(site.audit(&["--role", "app-role"]).len(), 6);
    let of_role = site.audit(&["--role", "no-such"]);
    assert_eq!(column(&of_role, "asked_by"), ["billing-svc"]);
    let both = ["--requester", "billing-svc", "--role", "app-role"];
    assert_eq!(
        column(&site.audit(&both), "decision"),
        ["created", "issued"]
    );
    let newest = site.audit(&["--limit", "2"]);
    assert_eq!(newest, life[2..], "the newest, and the newest of them last");
    assert_eq!(site.audit(&["--username", "nobody"]), [] as [Value; 0]);

    let table = site.keycard(&["audit", "--lease", lease_id]).stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 5, "{table}");
    for word in ["AT", "DECISION", "USERNAME", "ASKED BY", "WHY"] {
        assert!(lines[0].contains(word), "{table}");
    }
    for (line, decision) in lines[1..].iter().zip(column(&life, "decision")) {
        assert!(line.contains(&format!("  {decision}  ")), "{table}");
    }

    site.superuser(
        "SET session_replication_role = replica;
         UPDATE keycard.audit SET at = at - interval '2 hours' WHERE action <> 'closed'",
    )
    .await;
    let recent = site.audit(&["--since", "1h"]);
    assert_eq!(column(&recent, "decision"), ["closed"]);
    assert_eq!(site.audit(&["--since", "3h"]).len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_cannot_be_dropped_is_kept_as_disabled_and_later_as_revoked() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", None).await;
    let lease_id = issued["lease_id"].as_str().unwrap();
    let username = issued["username"].as_str().unwrap();
    site.superuser(&format!(
        "CREATE TABLE public.mine (); ALTER TABLE public.mine OWNER TO {username:?}"
    ))
    .await;
    let id = orders.revoke(lease_id).await;
    let rows = site.audit_until("disabled", lease_id).await;
    let disabled = rows.last().unwrap();
    assert_eq!(disabled["cause"], "requested");
    assert_eq!(disabled["asked_by"], "orders-svc");
    assert!(disabled["reason"].as_str().unwrap().contains("2BP01"));
    site.superuser("DROP TABLE public.mine").await;
    assert_eq!(
        orders.answer_within(&id, SOON).await.kind(),
        "lease.revoked.v1"
    );
    let rows = site.audit_until("closed", lease_id).await;
    assert_eq!(
        column(&rows, "decision"),
        ["created", "issued", "disabled", "revoked", "closed"]
    );
}
