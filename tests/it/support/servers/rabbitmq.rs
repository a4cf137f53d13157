//! `RabbitMQ`, and its management API.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use keycard::clock::monotonic_now;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{Server, Tls};

const HTTP_SECONDS: u64 = 120;

/// A `RabbitMQ` broker and its administrator.
pub struct RabbitMq {
    pub server: Server,
    pub host: String,
    pub port: u16,
    /// Where it speaks TLS, if it was started with it.
    pub tls_port: Option<u16>,
    pub http_port: u16,
    /// Where its management API speaks TLS, if it was started with it.
    pub https_port: Option<u16>,
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
            https_port: server.told("https_port"),
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

    pub fn delete_queue(&self, vhost: &str, name: &str) {
        self.api("DELETE", &["queues", vhost, name], &Value::Null);
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

    /// Loads vhosts, users and permissions, as an administrator would.
    pub fn import_definitions(&self, definitions: &Value) {
        self.api("POST", &["definitions"], definitions);
    }

    /// What the management API answers to a user whose password is its name.
    pub fn status_for(&self, user: &str, path: &[&str]) -> u16 {
        let answer = self.try_http_as((user, user), "GET", path, &Value::Null);
        answer.unwrap().0
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

    pub(super) fn api(&self, method: &str, path: &[&str], body: &Value) -> Value {
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
        self.try_http_as((&self.user, &self.password), method, path, body)
    }

    fn try_http_as(
        &self,
        (user, password): (&str, &str),
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
        let credentials = BASE64_STANDARD.encode(format!("{user}:{password}"));
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

    pub(super) fn poll<T>(&self, what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
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
