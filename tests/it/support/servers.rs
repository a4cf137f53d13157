//! Private servers, each run by one `tests/servers/serve.py`, which says how.
//!
//! A server lives as long as the pipe to its `serve.py`: until it is dropped, or, for the shared
//! ones, until the test process ends, in whatever way. All waits block the calling thread and end
//! at a deadline, with the server's log in the panic.

mod postgres;
mod rabbitmq;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::block_in_place;

pub use self::postgres::Postgres;
pub use self::rabbitmq::RabbitMq;

/// Longer than `serve.py` itself waits for a server to be made and to start.
const ANSWER_SECONDS: u64 = 400;

/// The `PostgreSQL` that tests share, of the version that [`postgres_version`] says.
pub fn shared_postgres() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(|| Postgres::start(postgres_version(), &[], None))
}

/// A `PostgreSQL` of that version without neighbours, with these settings. It ends with its test
/// process.
pub fn own_postgres(settings: &[(&str, &str)]) -> &'static Postgres {
    let postgres = block_in_place(|| Postgres::start(postgres_version(), settings, None));
    Box::leak(Box::new(postgres))
}

/// The broker that tests share: a vhost each.
pub fn shared_rabbitmq() -> &'static RabbitMq {
    static SHARED: OnceLock<RabbitMq> = OnceLock::new();
    SHARED.get_or_init(|| RabbitMq::start(None))
}

/// A broker that tests may harm, one after the other: whose turn it is holds the guard.
pub async fn harmed_rabbitmq() -> (&'static RabbitMq, tokio::sync::MutexGuard<'static, ()>) {
    static SHARED: OnceLock<RabbitMq> = OnceLock::new();
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let turn = TURN.lock().await;
    let broker = block_in_place(|| SHARED.get_or_init(|| RabbitMq::start(None)));
    (broker, turn)
}

/// The AWS Secrets Manager that tests share.
pub fn shared_moto() -> &'static Moto {
    static SHARED: OnceLock<Moto> = OnceLock::new();
    SHARED.get_or_init(Moto::start)
}

/// The major version of `PostgreSQL` to test against: `KEYCARD_TEST_POSTGRES`, else 15.
#[expect(clippy::disallowed_methods, reason = "the tests' own setting")]
pub fn postgres_version() -> u32 {
    std::env::var("KEYCARD_TEST_POSTGRES").map_or(15, |version| {
        version
            .parse()
            .unwrap_or_else(|error| panic!("KEYCARD_TEST_POSTGRES={version}: {error}"))
    })
}

/// Moto as AWS Secrets Manager.
pub struct Moto {
    pub server: Server,
    pub url: String,
}

impl Moto {
    pub fn start() -> Self {
        let server = Server::start("moto", &[]);
        Self {
            url: server.told("url"),
            server,
        }
    }
}

/// PEM files for a server that speaks TLS.
pub struct Tls<'a> {
    pub certificate: &'a Path,
    pub key: &'a Path,
    /// Who signs the certificates of its clients.
    pub authority: &'a Path,
}

impl Tls<'_> {
    fn certificate_argument(&self) -> String {
        format!("--tls-cert={}", self.certificate.display())
    }

    fn key_argument(&self) -> String {
        format!("--tls-key={}", self.key.display())
    }

    fn authority_argument(&self) -> String {
        format!("--tls-ca={}", self.authority.display())
    }
}

/// One server of any kind.
pub struct Server {
    kind: &'static str,
    process: Child,
    pipe: Mutex<Pipe>,
    description: Value,
    log: PathBuf,
}

struct Pipe {
    /// `None` once it is closed, which ends the server.
    commands: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Server {
    fn start(kind: &'static str, arguments: &[String]) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/serve.py");
        let mut process = Command::new(&program)
            .arg(kind)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let answers = lines_of(process.stdout.take());
        let commands = process.stdin.take();
        let description = answers
            .recv_timeout(Duration::from_secs(ANSWER_SECONDS))
            .ok()
            .and_then(|line| serde_json::from_str::<Value>(&line).ok())
            .unwrap_or_else(|| {
                panic!("{kind} did not start: serve.py says why on stderr; after `make setup`?")
            });
        Self {
            kind,
            process,
            pipe: Mutex::new(Pipe { commands, answers }),
            log: description["log"].as_str().unwrap_or_default().into(),
            description,
        }
    }

    /// Stops it in good order; a broker takes 6 s for it.
    pub fn stop(&self) {
        self.command("stop");
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&self) {
        self.command("kill");
    }

    /// Starts it after [`stop`](Self::stop) or [`kill`](Self::kill), on the same ports and data.
    pub fn start_again(&self) {
        self.command("start");
    }

    /// All that it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map_or_else(
            |error| format!("{}: {error}", self.log.display()),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    fn command(&self, line: &str) -> Value {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = match &mut pipe.commands {
            Some(commands) => writeln!(commands, "{line}"),
            None => Ok(()),
        };
        let answer = sent
            .ok()
            .and_then(|()| {
                pipe.answers
                    .recv_timeout(Duration::from_secs(ANSWER_SECONDS))
                    .ok()
            })
            .and_then(|answer| serde_json::from_str::<Value>(&answer).ok())
            .unwrap_or_else(|| self.fail(&format!("no answer to `{line}`")));
        if answer["ok"] != true {
            self.fail(&format!(
                "`{line}`: {}",
                answer["error"].as_str().unwrap_or_default()
            ));
        }
        answer
    }

    /// What `serve.py` said of it when it was ready.
    fn told<T: DeserializeOwned>(&self, key: &str) -> T {
        serde_json::from_value(self.description[key].clone())
            .unwrap_or_else(|error| panic!("{}: {key}: {error}", self.kind))
    }

    fn fail(&self, what: &str) -> ! {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        panic!("{}: {what}\n--- the end of its log:\n{tail}", self.kind)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pipe = self.pipe.get_mut().unwrap_or_else(PoisonError::into_inner);
        pipe.commands = None;
        let _ = self.process.wait();
    }
}

fn lines_of(output: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in output
            .into_iter()
            .flat_map(|output| BufReader::new(output).lines())
            .map_while(Result::ok)
        {
            let _ = sender.send(line);
        }
    });
    lines
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use serde_json::json;

    use super::rabbitmq::QueueDepth;
    use super::*;

    #[test]
    fn postgres_comes_back_after_a_crash_and_is_gone_when_dropped() {
        let postgres = Postgres::start(postgres_version(), &[("work_mem", "5MB")], None);
        let address = (postgres.host.clone(), postgres.port);
        postgres.server.kill();
        assert!(TcpStream::connect(&address).is_err());
        postgres.server.start_again();
        postgres.server.stop();
        postgres.server.start_again();
        assert!(TcpStream::connect(&address).is_ok());
        assert!(postgres.server.log().contains("automatic recovery"));
        drop(postgres);
        assert!(TcpStream::connect(&address).is_err());
    }

    #[test]
    #[ignore = "starts a broker twice; make verify runs it"]
    fn rabbitmq_obeys_and_keeps_what_it_has_over_a_crash() {
        let broker = RabbitMq::start(None);
        broker.create_vhost("a/b");
        broker.add_user("orders", "secret");
        broker.set_permissions("a/b", "orders", "^$", "^keycard\\.requests$", "^$");
        broker.api(
            "PUT",
            &["queues", "a/b", "q"],
            &json!({ "durable": true, "arguments": { "x-queue-type": "quorum" } }),
        );
        broker.memory_alarm(true);
        broker.memory_alarm(false);
        broker.close_connections("a/b");
        // A quorum queue that is killed within a second of its declaration is without leader and
        // messages for good (seen with 3.10.8, whose list of them is written that late).
        broker.server.stop();
        broker.server.start_again();
        broker.api(
            "POST",
            &["exchanges", "a/b", "amq.default", "publish"],
            &json!({ "properties": {}, "routing_key": "q", "payload": "1", "payload_encoding": "string" }),
        );
        broker.server.kill();
        broker.server.start_again();
        let one_ready = QueueDepth {
            ready: 1,
            unacknowledged: 0,
        };
        broker.poll("message after the crash", || {
            (broker.queue_messages("a/b", "q") == one_ready).then_some(())
        });
        assert!(broker.ctl(&["list_users"]).contains("orders"));
    }

    #[test]
    #[should_panic(expected = "it is already running")]
    fn what_a_server_refuses_is_a_panic() {
        shared_moto().server.start_again();
    }
}
