//! Private servers, each run by one `tests/servers/serve.py`, which says how.
//!
//! A server lives as long as the pipe to its `serve.py`: until it is dropped, or, for the shared
//! ones, until the test process ends, in whatever way. All waits block the calling thread and end
//! at a deadline, with the server's log in the panic.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use keycard::clock::monotonic_now;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Longer than `serve.py` itself waits for anything.
const ANSWER_SECONDS: u64 = 120;
const HTTP_SECONDS: u64 = 60;

/// The `PostgreSQL` that tests share, of the version that [`postgres_version`] says.
pub fn shared_postgres() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(|| Postgres::start(postgres_version(), &[], None))
}

/// The broker that tests share: a vhost each.
pub fn shared_rabbitmq() -> &'static RabbitMq {
    static SHARED: OnceLock<RabbitMq> = OnceLock::new();
    SHARED.get_or_init(|| RabbitMq::start(None))
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

/// A `PostgreSQL` server and its superuser.
pub struct Postgres {
    pub server: Server,
    pub host: String,
    pub port: u16,
    pub superuser: String,
    pub password: String,
    pub version: u32,
}

impl Postgres {
    /// Starts one with these settings in addition to, or instead of, those of `postgres.py`.
    pub fn start(version: u32, settings: &[(&str, &str)], tls: Option<&Tls>) -> Self {
        let mut arguments = vec![format!("--version={version}")];
        arguments.extend(
            settings
                .iter()
                .map(|(name, value)| format!("-c{name}={value}")),
        );
        if let Some(tls) = tls {
            arguments.extend([tls.certificate_argument(), tls.key_argument()]);
        }
        Self::of(Server::start("postgres", &arguments))
    }

    fn of(server: Server) -> Self {
        Self {
            host: server.told("host"),
            port: server.told("port"),
            superuser: server.told("superuser"),
            password: server.told("password"),
            version: server.told("version"),
            server,
        }
    }

    /// Takes a base backup, which lives as long as this server. Only version 15 has the tools.
    pub fn backup(&self) -> Backup<'_> {
        let answer = self.server.command("backup");
        let path = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        Backup {
            of: self,
            path: path("path"),
            wal: path("wal"),
        }
    }
}

/// A base backup of a server.
pub struct Backup<'a> {
    of: &'a Postgres,
    path: String,
    wal: String,
}

impl Backup<'_> {
    /// Starts another server as this one was at a restore point after the backup. The first one must
    /// have been stopped.
    pub fn recover_to(&self, restore_point: &str) -> Postgres {
        let settings = [
            format!("-crestore_command=cp {}/%f %p", self.wal),
            format!("-crecovery_target_name={restore_point}"),
            "-crecovery_target_action=promote".to_owned(),
        ];
        self.start("recovery", settings.into())
    }

    /// Starts a standby that follows the server.
    pub fn follow(&self) -> Postgres {
        let Postgres {
            host,
            port,
            superuser,
            password,
            ..
        } = self.of;
        let primary = format!("host={host} port={port} user={superuser} password={password}");
        self.start("standby", vec![format!("-cprimary_conninfo={primary}")])
    }

    fn start(&self, role: &str, mut arguments: Vec<String>) -> Postgres {
        arguments.extend([
            format!("--version={}", self.of.version),
            format!("--backup={}", self.path),
            format!("--as={role}"),
        ]);
        Postgres {
            password: self.of.password.clone(),
            ..Postgres::of(Server::start("postgres", &arguments))
        }
    }
}

/// A `RabbitMQ` broker and its administrator.
pub struct RabbitMq {
    pub server: Server,
    pub host: String,
    pub port: u16,
    /// Where it speaks TLS, if it was started with it.
    pub tls_port: Option<u16>,
    pub http_port: u16,
    pub user: String,
    pub password: String,
}

/// A queue's messages, as its broker counted them within the last second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueDepth {
    pub ready: u64,
    pub unacknowledged: u64,
}

impl RabbitMq {
    /// Starts one; with TLS it listens on a second port.
    pub fn start(tls: Option<&Tls>) -> Self {
        let arguments = tls.map_or_else(Vec::new, |tls| {
            vec![
                tls.certificate_argument(),
                tls.key_argument(),
                tls.authority_argument(),
            ]
        });
        let server = Server::start("rabbitmq", &arguments);
        Self {
            host: server.told("host"),
            port: server.told("port"),
            tls_port: server.told("tls_port"),
            http_port: server.told("http_port"),
            user: server.told("user"),
            password: server.told("password"),
            server,
        }
    }

    /// Creates a vhost in which the administrator may do everything.
    pub fn create_vhost(&self, name: &str) {
        self.api("PUT", &["vhosts", name], &json!({}));
        self.set_permissions(name, &self.user, ".*", ".*", ".*");
    }

    /// Deletes a vhost: two thousand idle queues make a broker slow. One that is away keeps it.
    pub fn delete_vhost(&self, name: &str) {
        let _ = self.try_http("DELETE", &["vhosts", name], &Value::Null);
    }

    pub fn add_user(&self, name: &str, password: &str) {
        self.api(
            "PUT",
            &["users", name],
            &json!({ "password": password, "tags": "" }),
        );
    }

    /// What `user` may do in `vhost`: regular expressions over the names of exchanges and queues.
    pub fn set_permissions(
        &self,
        vhost: &str,
        user: &str,
        configure: &str,
        write: &str,
        read: &str,
    ) {
        let permissions = json!({ "configure": configure, "write": write, "read": read });
        self.api("PUT", &["permissions", vhost, user], &permissions);
    }

    /// Which routing keys of a topic exchange `user` may bind to.
    pub fn set_topic_permissions(&self, vhost: &str, user: &str, exchange: &str, read: &str) {
        let permissions = json!({ "exchange": exchange, "write": "^$", "read": read });
        self.api("PUT", &["topic-permissions", vhost, user], &permissions);
    }

    /// Waits for the first count, which a new queue lacks for a second.
    pub fn queue_messages(&self, vhost: &str, queue: &str) -> QueueDepth {
        self.poll(&format!("count of the messages in {queue}"), || {
            let counted = self.api("GET", &["queues", vhost, queue], &Value::Null);
            Some(QueueDepth {
                ready: counted["messages_ready"].as_u64()?,
                unacknowledged: counted["messages_unacknowledged"].as_u64()?,
            })
        })
    }

    /// Closes every connection to `vhost`, as an operator or a failing node would.
    pub fn close_connections(&self, vhost: &str) {
        self.ctl(&[
            "close_all_connections",
            "--vhost",
            vhost,
            "closed by a test",
        ]);
    }

    /// Raises or ends a memory alarm, which blocks every publisher of the broker: not for the
    /// shared one.
    pub fn memory_alarm(&self, on: bool) {
        let watermark = if on { "0.00001" } else { "0.4" };
        self.ctl(&["set_vm_memory_high_watermark", watermark]);
        self.poll("change of the memory alarm", || {
            let (status, _) = self.http("GET", &["health", "checks", "local-alarms"], &Value::Null);
            ((status != 200) == on).then_some(())
        });
    }

    /// Runs `rabbitmqctl`, which takes 0.3 s; what it prints.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let answer = self.server.command(&format!("ctl {}", json!(arguments)));
        answer["stdout"].as_str().unwrap_or_default().to_owned()
    }

    fn api(&self, method: &str, path: &[&str], body: &Value) -> Value {
        let (status, answer) = self.http(method, path, body);
        if !(200..300).contains(&status) {
            self.server
                .fail(&format!("{method} {path:?}: status {status}: {answer}"));
        }
        serde_json::from_str(&answer).unwrap_or(Value::Null)
    }

    /// One request to the management API: status and body.
    fn http(&self, method: &str, path: &[&str], body: &Value) -> (u16, String) {
        self.try_http(method, path, body).unwrap_or_else(|error| {
            self.server.fail(&format!(
                "{method} {path:?} at port {}: {error}",
                self.http_port
            ))
        })
    }

    fn try_http(
        &self,
        method: &str,
        path: &[&str],
        body: &Value,
    ) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect((self.host.as_str(), self.http_port))?;
        stream.set_read_timeout(Some(Duration::from_secs(HTTP_SECONDS)))?;
        let target = path.iter().fold("/api".to_owned(), |mut target, segment| {
            let _ = write!(
                target,
                "/{}",
                utf8_percent_encode(segment, NON_ALPHANUMERIC)
            );
            target
        });
        let credentials = BASE64_STANDARD.encode(format!("{}:{}", self.user, self.password));
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        // HTTP/1.0: the answer is not chunked and ends with the connection.
        let request = format!(
            "{method} {target} HTTP/1.0\r\nAuthorization: Basic {credentials}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        match (status, answer.split_once("\r\n\r\n")) {
            (Some(status), Some((_, body))) => Ok((status, body.to_owned())),
            _ => Err(std::io::Error::other(format!("not HTTP: {answer:?}"))),
        }
    }

    fn poll<T>(&self, what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
        let deadline = monotonic_now() + Duration::from_secs(HTTP_SECONDS);
        loop {
            if let Some(found) = attempt() {
                return found;
            }
            if monotonic_now() > deadline {
                self.server.fail(&format!("no {what} in {HTTP_SECONDS} s"));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
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
        broker.api(
            "POST",
            &["exchanges", "a/b", "amq.default", "publish"],
            &json!({ "properties": {}, "routing_key": "q", "payload": "1", "payload_encoding": "string" }),
        );
        broker.memory_alarm(true);
        broker.memory_alarm(false);
        broker.close_connections("a/b");
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
