//! A second person's mistakes, each by its name: one clear sentence, a remedy, the documented exit
//! code, and nothing left behind.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use super::{configure, configure_client, embedded, worker_says};
use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::process::{Output, Worker};
use crate::support::site::Site;

/// What somebody types at a terminal, without what the worker knows.
fn type_in(site: &Site, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Output::of(
        site.command(arguments)
            .envs(variables.iter().copied())
            .env("PATH", "/usr/bin:/bin")
            .current_dir(site.path()),
    )
}

fn assert_told(output: &Output, code: i32, words: &[&str]) {
    let said = &output.stderr;
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert_eq!(output.stdout, "");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    assert!(!said.contains("canary"), "{said}");
}

async fn newcomer() -> Site {
    let site = embedded().await;
    configure(&site);
    configure_client(&site, "orders-svc");
    site
}

async fn assert_nothing_is_left(site: &Site) {
    assert_eq!(site.logins().await, 0);
    let files = site.secret_files();
    assert!(
        files.iter().all(|file| file.ends_with(".lock")),
        "{files:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_role() {
    let site = newcomer().await;
    let text = std::fs::read_to_string(&site.config).unwrap();
    let text = text.replace(
        "[client]",
        "[roles.theirs]\ndatabase = \"app\"\ngroups = [\"g\"]\nrequesters = [\"billing-svc\"]\n[client]",
    );
    std::fs::write(&site.config, text).unwrap();
    let _worker = site.worker().await;
    for role in ["no-role", "theirs"] {
        for arguments in [
            &["request", role][..],
            &["run", role, "--", "true"],
            &["connect", role],
            &["fetch", role, "--out", "file"],
        ] {
            let output = type_in(&site, arguments, &[]);
            let words = [
                "denied (role_not_allowed)",
                "name this requester in `requesters`",
            ];
            assert_told(&output, 3, &words);
            assert_eq!(output.stderr.lines().count(), 1);
        }
    }
    assert!(!site.path().join("file").exists());
    assert_nothing_is_left(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_nobody_has_made() {
    let site = newcomer().await;
    let text = std::fs::read_to_string(&site.config).unwrap();
    std::fs::write(&site.config, text.replace(&site.group, "no_group")).unwrap();
    let _worker = site.worker().await;
    let words = ["role \"no_group\" does not exist", "groups and statements"];
    assert_told(&type_in(&site, &["request", "app-role"], &[]), 3, &words);
    assert_nothing_is_left(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_broker() {
    let site = newcomer().await;
    let broker = [
        (
            "KEYCARD_CLIENT__URL",
            "amqp://orders-svc@127.0.0.1:1/keycard",
        ),
        ("KEYCARD_QUEUE__KIND", "amqp"),
        ("KEYCARD_QUEUE__URL", "amqp://keycard@127.0.0.1:1/keycard"),
        ("KEYCARD_QUEUE__PASSWORD", "canary"),
    ];
    let words = [
        "127.0.0.1:1 ",
        "Connection refused",
        "start the broker, or mend host and port",
    ];
    worker_says(&site, &broker, &[&words[..], &["queue.url"]].concat()).await;
    for arguments in [
        &["request", "app-role"][..],
        &["run", "app-role", "--", "true"],
        &["dead-letters", "list"],
    ] {
        let output = type_in(&site, arguments, &broker);
        assert_told(&output, 1, &[&words[..], &["client.url"]].concat());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_postgres() {
    let site = newcomer().await;
    for (host, why) in [
        ("127.0.0.1:1", "Connection refused"),
        ("nowhere.invalid:5432", "nowhere.invalid:5432: "),
    ] {
        let client = format!("postgresql://orders-svc@{host}/app?sslmode=disable");
        let admin = format!("postgresql://{}@{host}/app?sslmode=disable", site.admin);
        let variables = [
            ("KEYCARD_CLIENT__URL", client.as_str()),
            ("KEYCARD_DATABASES__APP__CONNECTION_URL", admin.as_str()),
            // A name server that does not answer shall not take longer than keycard's patience.
            ("RES_OPTIONS", "timeout:1 attempts:1"),
        ];
        for arguments in [&["request", "app-role"][..], &["lease", "list"]] {
            let words = [host, why, "start Postgres there, or mend host and port"];
            assert_told(&type_in(&site, arguments, &variables), 1, &words);
        }
    }
}

/// Something else answers where Postgres is looked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken() {
    let site = newcomer().await;
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap();
    // It ends with the test.
    std::thread::spawn(move || {
        for connection in taken.incoming() {
            let mut connection = connection.unwrap();
            let mut asked = [0; 1024];
            // Whoever asks may have gone.
            let _ = connection.read(&mut asked);
            let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let admin = format!("postgresql://{}@{address}/app", site.admin);
    let client = format!("postgresql://orders-svc@{address}/app");
    let address = address.to_string();
    let words = [&address, "start Postgres there, or mend host and port"];
    let variables = [("KEYCARD_DATABASES__APP__CONNECTION_URL", admin.as_str())];
    worker_says(&site, &variables, &words).await;
    let output = type_in(
        &site,
        &["request", "app-role"],
        &[("KEYCARD_CLIENT__URL", &client)],
    );
    assert_told(&output, 1, &words);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls() {
    let site = newcomer().await;
    let (port, dbname) = (site.postgres.port, &site.dbname);
    let client = format!("postgresql://orders-svc@127.0.0.1:{port}/{dbname}?sslmode=verify-full");
    let variables = [("KEYCARD_CLIENT__URL", client.as_str())];
    let words = [
        "does not support TLS",
        "set it up, or write sslmode=disable",
    ];
    assert_told(
        &type_in(&site, &["request", "app-role"], &variables),
        1,
        &words,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_of_1_hour() {
    let site = newcomer().await;
    let words = [
        "\"1 hour\"",
        "write it like \"90s\", \"15m\", \"1h\" or \"7d\"",
    ];
    let arguments = ["request", "app-role", "--ttl", "1 hour"];
    assert_told(&type_in(&site, &arguments, &[]), 2, &words);
    let text = std::fs::read_to_string(&site.config).unwrap();
    let text = text.replace(
        "[roles.app-role]",
        "[roles.app-role]\ndefault_ttl = \"1 hour\"",
    );
    std::fs::write(&site.config, text).unwrap();
    let file = site.config.to_str().unwrap();
    let words = [&words[..], &["roles.app-role.default_ttl: ", file]].concat();
    for arguments in [&["config", "check"][..], &["worker"], &["lease", "list"]] {
        assert_told(&type_in(&site, arguments, &[]), 2, &words);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_written() {
    let site = newcomer().await;
    // Not even root may make one there.
    let variables = [("KEYCARD_STORE__PATH", "/proc/keycard")];
    let output = type_in(&site, &["worker"], &variables);
    assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
    let line = output.stderr.lines().last().unwrap();
    assert!(
        line.contains("could not create /proc/keycard: ")
            && line.ends_with("; check that path; or name another directory in store.path"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_without_its_rights() {
    let site = newcomer().await;
    let superuser = site.sql().await;
    let admin = &site.admin;
    for (taken, lacks) in [
        (
            format!("REVOKE pg_signal_backend FROM {admin}"),
            "is no member of pg_signal_backend",
        ),
        (
            format!("ALTER ROLE {admin} NOCREATEROLE"),
            "has no CREATEROLE",
        ),
    ] {
        superuser.batch_execute(&taken).await.unwrap();
        let output = type_in(&site, &["worker"], &[]);
        let words = [
            admin,
            lacks,
            "run the script of `keycard setup-sql --database app`",
        ];
        assert_told(&output, 1, &words);
    }
    let script = site.keycard(&["setup-sql", "--database", "app"]).stdout;
    superuser.batch_execute(&script).await.unwrap();
    let _worker = site.worker().await;
}

/// A command that has its own process group, as a terminal gives it one; Ctrl-C is for all of it.
struct Job {
    id: u32,
    process: Worker,
}

impl Job {
    fn start(site: &Site, name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let keycard = site.command(arguments);
        // Whoever runs the tests may ignore some: `nohup`, a shell's background job.
        let mut command = Command::new("/usr/bin/env");
        command
            .arg("--default-signal=HUP,INT,QUIT")
            .arg(keycard.get_program())
            .args(keycard.get_args())
            .env_clear()
            .envs(
                keycard
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .envs(variables.iter().copied())
            .env("PATH", "/usr/bin:/bin")
            .current_dir(site.path())
            .process_group(0);
        let process = Worker::start(&mut command, site.path().join(name));
        Self {
            id: process.id(),
            process,
        }
    }

    async fn says(&self, words: &str) {
        eventually(&format!("it says {words:?}"), SOON, async || {
            self.process.log().contains(words).then_some(())
        })
        .await;
    }

    fn ctrl_c(&self) {
        let group = format!("-{}", self.id);
        let sent = Command::new("kill").args(["-INT", "--", &group]).status();
        assert!(sent.unwrap().success());
    }

    /// Its exit code.
    async fn ends(&mut self) -> Option<i32> {
        self.process.exit(SOON).await.code()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_at_each_step_of_a_worker() {
    let site = newcomer().await;
    let away = format!("postgresql://{}@127.0.0.1:1/app", site.admin);
    let away = [("KEYCARD_DATABASES__APP__CONNECTION_URL", away.as_str())];
    for (name, variables, words) in [
        ("waiting", &away[..], "keeps trying"),
        ("serving", &[], "keycard serves"),
    ] {
        let mut worker = Job::start(&site, name, &["worker"], variables);
        worker.says(words).await;
        worker.ctrl_c();
        assert_eq!(worker.ends().await, Some(0), "{}", worker.process.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_at_each_step_of_a_command() {
    let site = newcomer().await;
    {
        let worker = site.worker().await;
        for script in [
            "echo runs; exec sleep 600",
            "trap 'exit 130' INT; echo runs; while :; do sleep 0.1; done",
        ] {
            let arguments = ["run", "app-role", "--", "sh", "-c", script];
            let mut run = Job::start(&site, "run", &arguments, &[]);
            run.says("runs").await;
            assert_eq!(site.logins().await, 1);
            run.ctrl_c();
            assert_eq!(run.ends().await, Some(130), "{}", run.process.log());
            // Where the signal comes to keycard after its command's end, it asks for patience.
            let said = run.process.log();
            let patience =
                "keycard: revoking the lease; interrupt once more to leave it to its end\n";
            let rest = said.strip_prefix("runs\n").unwrap();
            assert!(rest.is_empty() || rest == patience, "{said}");
            assert_nothing_is_left(&site).await;
        }

        let arguments = ["fetch", "app-role", "--out", "file", "--ttl", "15s"];
        let mut fetch = Job::start(&site, "fetch", &arguments, &[]);
        fetch.says("holds a new credential").await;
        fetch.ctrl_c();
        assert_eq!(fetch.ends().await, Some(0), "{}", fetch.process.log());
        fetch
            .says("stopped; the credential in file ends by itself at ")
            .await;
        eventually("it has ended by itself", SOON, async || {
            (site.logins().await == 0).then_some(())
        })
        .await;
        worker.terminate();
    }
    // Nobody answers any more.
    for arguments in [
        &["request", "app-role"][..],
        &["run", "app-role", "--", "true"],
        &["fetch", "app-role", "--out", "other"],
    ] {
        let name = arguments[0];
        // The killed worker's last words may still come to another lane.
        let requests = "SELECT count(*) FROM keycard.messages WHERE stream = 'requests'";
        let sent = site.count(requests).await;
        let mut job = Job::start(&site, &format!("{name}-alone"), arguments, &[]);
        eventually("the request is sent", SOON, async || {
            (site.count(requests).await > sent).then_some(())
        })
        .await;
        job.ctrl_c();
        job.says("interrupted; waiting for the answer to the request")
            .await;
        job.ctrl_c();
        assert_eq!(job.ends().await, Some(130), "{}", job.process.log());
        job.says("interrupted; no answer came; ").await;
    }
    assert!(!site.path().join("other").exists());
}
