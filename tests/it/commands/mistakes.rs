//! A second person's mistakes: each ends in one clear sentence and a remedy, and leaves nothing.

use std::process::Command;

use tempfile::TempDir;

use super::Person;
use crate::support::services::QueueKind;
use crate::support::site::Site;

fn keycard(directory: &TempDir, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_keycard"))
        .args(arguments)
        .current_dir(directory.path())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"", "{arguments:?}");
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn what_is_mistyped_is_told_before_anything_is_asked_for() {
    let directory = TempDir::new().unwrap();
    let config = "[client]\nurl = \"amqp://me@127.0.0.1:1/x\"\npassword = { env = \"MISSING\" }\n";
    std::fs::write(directory.path().join("keycard.toml"), config).unwrap();
    for (arguments, words) in [
        (
            &["request", "app-role", "--ttl", "1 hour"][..],
            "\"1 hour\" is no duration; write it like \"90s\"",
        ),
        (&["run", "app-role", "--ttl=1h30"], "is no duration"),
        (&["run", "app-role"], "<CMD>"),
        (&["run", "app-role", "psql"], "'psql' found"),
        (
            &["request", "app-role", "--format", "yaml"],
            "env, json, dsn, pgpass",
        ),
        (
            &["request", "app-role", "--format=env", "--output=json"],
            "cannot be used with",
        ),
        (&["fetch", "app-role"], "--out <FILE>"),
        (
            &["fetch", "app-role", "--out", "missing/file"],
            "name a file in a directory that exists and that you may write",
        ),
        (
            &["fetch", "app-role", "--out", "/proc/file"],
            "/proc cannot be written",
        ),
        (
            &["fetch", "app-role", "--out", "."],
            "is no file's name; name a file",
        ),
        (&["lease", "revoke", "x"], "one looks like app-db."),
        (&["lease", "renew"], "<LEASE_ID>"),
    ] {
        let (code, said) = keycard(&directory, arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    for arguments in [&["request", "app-role"][..], &["dead-letters", "list"]] {
        let (code, said) = keycard(&directory, arguments);
        assert_eq!(code, Some(2), "{said}");
        let told = "client.password: the variable MISSING is not set, or not UTF-8; provide it";
        assert!(said.contains(told), "{said}");
        assert!(
            said.contains("the configuration in ./keycard.toml"),
            "{said}"
        );
    }

    std::fs::write(directory.path().join("keycard.toml"), "").unwrap();
    for arguments in [
        &["request", "app-role"][..],
        &["run", "app-role", "--", "true"],
        &["connect", "app-role"],
        &["fetch", "app-role", "--out", "file"],
        &[
            "lease",
            "revoke",
            "app.01890a5d-ac96-774b-bcce-b302099a8057",
        ],
    ] {
        let (code, said) = keycard(&directory, arguments);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("write [client] with url"), "{said}");
    }
    assert!(!directory.path().join("file").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_told_with_a_remedy() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let orders = Person::new(&site, "orders-svc");
    for arguments in [
        &["request", "no-role"][..],
        &["run", "no-role", "--", "true"],
        &["connect", "no-role"],
        &["fetch", "no-role", "--out", "file"],
    ] {
        let output = orders.keycard(arguments);
        assert_eq!(output.status.code(), Some(3), "{}", output.stderr);
        let said = output.stderr;
        assert!(
            said.contains("denied (role_not_allowed)")
                && said.contains("requesters")
                && said.contains("(asked as 'orders-svc')"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let output = orders.keycard(&["request", "app-role", "--ttl", "0"]);
    assert_eq!(output.status.code(), Some(3), "{}", output.stderr);
    assert!(
        output.stderr.contains("denied (ttl_invalid)"),
        "{}",
        output.stderr
    );
    let unknown = "app.01890a5d-ac96-774b-bcce-b302099a8057";
    let output = orders.keycard(&["lease", "revoke", unknown]);
    assert_eq!(output.status.code(), Some(3), "{}", output.stderr);
    assert!(output.stderr.contains("no such lease"), "{}", output.stderr);

    let mended_by = match site.queue {
        QueueKind::Amqp(_) => "the password of its user",
        QueueKind::Postgres => "mend the user's name or password",
    };
    let wrong = Person::new(&site, "orders-svc").set("MY_PASSWORD", "wrong-canary");
    let output = wrong.keycard(&["run", "app-role", "--", "true"]);
    assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
    assert!(output.stderr.contains(mended_by), "{}", output.stderr);
    assert!(!output.stderr.contains("wrong-canary"), "{}", output.stderr);

    for (scheme, mended_by) in [
        (
            "amqp",
            "start the broker, or mend host and port in client.url",
        ),
        ("postgresql", "start Postgres there, or mend host and port"),
    ] {
        let url = format!("{scheme}://me@127.0.0.1:1/x");
        let config = format!("[client]\nurl = {url:?}\npassword = {{ env = \"MY_PASSWORD\" }}\n");
        std::fs::write(&orders.config, config).unwrap();
        let output = orders.keycard(&["request", "app-role"]);
        assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
        let said = output.stderr;
        for words in ["onnection refused", "127.0.0.1:1 ", "client.url", mended_by] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
    assert_eq!(site.count("SELECT count(*) FROM keycard.leases").await, 0);
}
