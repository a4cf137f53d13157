//! The command line as a service: credentials, leases and files, with a user of its own.

mod fetch;
mod leases;
mod manual;
mod mistakes;
mod requests;
mod run;
mod signals;

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

use crate::support::client::SOON;
use crate::support::eventually;
use crate::support::process::Output;
use crate::support::services::QueueKind;
use crate::support::site::Site;

/// Somebody at a terminal of their own: a configuration with nothing but a [client] section.
struct Person<'a> {
    site: &'a Site,
    config: PathBuf,
    variables: Vec<(String, String)>,
    through: Vec<String>,
}

impl<'a> Person<'a> {
    fn new(site: &'a Site, user: &str) -> Self {
        let config = site.path().join(format!("{user}.toml"));
        let url = site.client_url(user);
        std::fs::write(
            &config,
            format!("[client]\nurl = {url:?}\npassword = {{ env = \"MY_PASSWORD\" }}\n"),
        )
        .unwrap();
        Self {
            site,
            config,
            variables: vec![
                ("MY_PASSWORD".to_owned(), user.to_owned()),
                ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
            ],
            through: vec![],
        }
    }

    fn set(mut self, variable: &str, value: &str) -> Self {
        self.variables.retain(|(name, _)| name != variable);
        self.variables.push((variable.to_owned(), value.to_owned()));
        self
    }

    /// Has keycard started by another program.
    fn through(mut self, program: &[&str]) -> Self {
        self.through = program.iter().map(|&word| word.to_owned()).collect();
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        // Whoever runs the tests may ignore some: `nohup`, a shell's background job.
        let mut command = Command::new("/usr/bin/env");
        command
            .arg("--default-signal=HUP,INT,QUIT")
            .args(&self.through)
            .arg(env!("CARGO_BIN_EXE_keycard"))
            .args(["--config"])
            .arg(&self.config)
            .args(arguments)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.site.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    fn keycard(&self, arguments: &[&str]) -> Output {
        Output::of(&mut self.command(arguments))
    }

    /// Runs a command that has to succeed without a word on standard error; what it printed.
    fn right(&self, arguments: &[&str]) -> String {
        let output = self.keycard(arguments);
        assert_eq!(output.stderr, "");
        assert_eq!(output.status.code(), Some(0));
        output.stdout
    }

    /// Asks for a credential and reads the answer's data.
    fn issued(&self, arguments: &[&str]) -> Value {
        let answer = self.right(&[&["request"], arguments, &["--output", "json"]].concat());
        let event: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(event["type"], "keycard.credential.issued.v1");
        event["data"].clone()
    }

    /// Starts a command; what it says goes to files.
    fn start(&self, name: &str, arguments: &[&str]) -> Running {
        let file = |kind: &str| {
            let path = self.site.path().join(format!("{name}.{kind}"));
            (std::fs::File::create(&path).unwrap(), path)
        };
        let ((out, stdout), (err, stderr)) = (file("stdout"), file("stderr"));
        let child = self
            .command(arguments)
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .unwrap();
        Running {
            child,
            stdout,
            stderr,
        }
    }
}

/// A command that runs; killed when dropped.
struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    fn stdout(&self) -> String {
        std::fs::read_to_string(&self.stdout).unwrap()
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }

    fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// To the command and everything that it has started.
    fn signal_group(&self, name: &str) {
        let group = format!("-{}", self.child.id());
        let sent = Command::new("kill")
            .args([&format!("-{name}"), "--", &group])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits until it has said something.
    async fn says(&self, words: &str) {
        eventually(&format!("it says {words:?}"), SOON, async || {
            (self.stdout() + &self.stderr())
                .contains(words)
                .then_some(())
        })
        .await;
    }

    async fn exit(&mut self) -> ExitStatus {
        eventually("the command ends", SOON, async || {
            self.child.try_wait().unwrap()
        })
        .await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- stdout\n{}--- stderr\n{}", self.stdout(), self.stderr());
        }
    }
}

fn signal(process: u32, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &process.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// Waits until this many leases are alive in the site's ledger.
async fn live_leases(site: &Site, count: i64) {
    let sql = "SELECT count(*) FROM keycard.leases WHERE state IN ('issuing', 'active')";
    eventually(&format!("{count} live leases"), SOON, async || {
        (site.count(sql).await == count).then_some(())
    })
    .await;
}

/// The causes of all leases that are over, oldest first.
async fn causes(site: &Site) -> Vec<String> {
    let sql = "SELECT cause FROM keycard.leases WHERE state IN ('dropped', 'closed') ORDER BY id";
    let rows = site.sql().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Whether a command is in the queue, handed out or not.
async fn is_sent(site: &Site, lane: &str) -> bool {
    match site.queue {
        QueueKind::Amqp(rabbitmq) => {
            let depth = rabbitmq.queue_messages(&site.vhost, &format!("keycard.{lane}"));
            depth.ready + depth.unacknowledged > 0
        }
        QueueKind::Postgres => {
            let sent = format!("SELECT count(*) FROM keycard.messages WHERE stream = '{lane}'");
            site.count(&sent).await > 0
        }
    }
}
