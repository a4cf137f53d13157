//! The broker's management API, of which `keycard doctor` asks what no connection tells: who the
//! broker's other users are.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::http::uri::Scheme;
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ClientConfig;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{OPERATION_TIMEOUT, Settings};
use crate::check::{Check, is_this_host};
use crate::fault::told_with_causes;
use crate::password::ReadPassword;

/// What it says of others than keycard's own user, as [`super::examine`] does of that.
const NAME: &str = "queue.impersonators";

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// The tag of users that may publish in any other's name.
const IMPERSONATOR: &str = "impersonator";

/// Where the API is, and who asks.
pub struct Management {
    /// Its base, without the user.
    pub url: Uri,
    /// A user that is tagged administrator.
    pub user: String,
    /// Reads that user's password.
    pub password: ReadPassword,
    /// Verifies the server, where the URL has TLS.
    pub tls: ClientConfig,
}

/// A user that may publish in any other's name.
struct Impersonator {
    user: String,
    /// What else it is tagged.
    tags: Vec<String>,
}

/// One of the broker's own users: those of LDAP or OAuth 2 are not among them.
#[derive(Deserialize)]
struct User {
    name: String,
    tags: Tags,
}

/// Before `RabbitMQ` 3.9 they were one text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Tags {
    List(Vec<String>),
    Text(String),
}

#[derive(Deserialize)]
struct Permission {
    user: String,
}

/// Why nothing was learnt.
struct Unasked {
    problem: String,
    remedy: String,
}

/// What the API says when it refuses.
#[derive(Deserialize)]
struct Refusal {
    reason: String,
}

/// Nobody said whom to ask.
#[must_use]
pub fn unknown_users() -> Check {
    Check::warning(
        NAME,
        "the broker's other users were not looked at; who is tagged impersonator may ask as any service",
        "set management.url and management.password (README.md), or see that `rabbitmqctl list_users` shows none",
    )
}

/// Whoever was to be asked could not be.
#[must_use]
pub fn unasked_users(problem: &impl std::fmt::Display, remedy: &str) -> Check {
    let seen = format!("the broker's users could not be looked at: {problem}");
    Check::warning(NAME, seen, remedy)
}

impl Management {
    /// Looks whether any user of keycard's vhost but keycard's own may publish in any name: it could
    /// ask as any service, and be given that service's credentials.
    pub async fn examine(&self, keycard: &Settings) -> Check {
        if !self.is_protected() {
            return unasked_users(
                &format!(
                    "{}: the administrator's password would go there in the clear",
                    self.url
                ),
                "write https:// in management.url",
            );
        }
        let vhost = &keycard.uri.vhost;
        // Its own was looked at over its own connection.
        let own = &keycard.uri.authority.userinfo.username;
        let mut found = match self.impersonators(vhost).await {
            Ok(found) => found,
            Err(Unasked { problem, remedy }) => return unasked_users(&problem, &remedy),
        };
        found.retain(|one| one.user != *own);
        if found.is_empty() {
            let seen = format!("no other user of vhost '{vhost}' may publish in any name");
            return Check::ok(NAME, seen);
        }
        let (names, remedies): (Vec<_>, Vec<_>) = found
            .iter()
            .map(|Impersonator { user, tags }| {
                let remedy = format!("rabbitmqctl set_user_tags '{user}' {}", tags.join(" "));
                (format!("'{user}'"), remedy.trim_end().to_owned())
            })
            .unzip();
        let seen = format!(
            "tagged impersonator, and so any service at will: {}",
            names.join(", ")
        );
        Check::failure(NAME, seen, remedies.join("; "))
    }

    /// Whether nobody between can read what is said.
    fn is_protected(&self) -> bool {
        // Of an IPv6 address the host is `[::1]`.
        let host = self.url.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        self.url.scheme() == Some(&Scheme::HTTPS) || is_this_host(host)
    }

    /// The users tagged impersonator that may use this vhost.
    async fn impersonators(&self, vhost: &str) -> Result<Vec<Impersonator>, Unasked> {
        let vhost = utf8_percent_encode(vhost, NON_ALPHANUMERIC);
        let permissions = format!("/api/vhosts/{vhost}/permissions?columns=user");
        let permitted: Vec<Permission> = self.get(&permissions).await?;
        let permitted: BTreeSet<String> = permitted.into_iter().map(|one| one.user).collect();
        // The columns are all that is sent: hashes of passwords stay there.
        let users: Vec<User> = self.get("/api/users?columns=name,tags").await?;
        let impersonators = users.into_iter().filter_map(|user| {
            let tags = match user.tags {
                Tags::List(tags) => tags,
                Tags::Text(text) => text.split(',').map(str::to_owned).collect(),
            };
            let (speaks, others): (Vec<_>, Vec<_>) =
                tags.into_iter().partition(|tag| tag == IMPERSONATOR);
            (!speaks.is_empty() && permitted.contains(&user.name)).then_some(Impersonator {
                user: user.name,
                tags: others,
            })
        });
        Ok(impersonators.collect())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Unasked> {
        let base = self.url.to_string();
        let base = base.trim_end_matches('/');
        let asking = self.ask(format!("{base}{path}"));
        let (status, body) = timeout(OPERATION_TIMEOUT, asking)
            .await
            .unwrap_or_else(|_| Err("it does not answer".to_owned()))
            .map_err(|problem| Unasked {
                problem: format!("{base}: {problem}"),
                remedy: "mend [management]; where that is right: rabbitmq-plugins enable rabbitmq_management"
                    .to_owned(),
            })?;
        if status == StatusCode::OK
            && let Ok(answer) = serde_json::from_slice(&body)
        {
            return Ok(answer);
        }
        let reason = serde_json::from_slice::<Refusal>(&body).map(|refusal| refusal.reason);
        let said = reason.unwrap_or_else(|_| status.to_string());
        let user = &self.user;
        Err(if status == StatusCode::UNAUTHORIZED {
            Unasked {
                problem: format!("{base}: it refuses user '{user}': {said}"),
                remedy: "name an administrator of its own in management.url, never keycard's user, and its password in management.password"
                    .to_owned(),
            }
        } else {
            Unasked {
                problem: format!("{base}: that is no answer of RabbitMQ's management API: {said}"),
                remedy: "mend management.url".to_owned(),
            }
        })
    }

    async fn ask(&self, url: String) -> Result<(StatusCode, Bytes), String> {
        let password = (self.password)().await?;
        let credentials = format!("{}:{}", self.user, password.expose_secret());
        let basic = format!("Basic {}", BASE64_STANDARD.encode(credentials));
        let mut basic = HeaderValue::try_from(basic).map_err(|error| error.to_string())?;
        basic.set_sensitive(true);
        let request = Request::get(url)
            .header(AUTHORIZATION, basic)
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(self.tls.clone())
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let answer = client
            .request(request)
            .await
            .map_err(|error| told_with_causes(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    }
}
