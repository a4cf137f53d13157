//! What a secret holds and how it is tagged.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::lease::Lease;

/// What a client needs to log in.
pub struct Credential {
    /// Where the database listens.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The lease's login.
    pub username: String,
    /// The login's password.
    pub password: SecretString,
    /// The database to connect to.
    pub dbname: String,
    /// Whether clients have to connect with TLS.
    pub ssl: bool,
    /// The lease that the login belongs to.
    pub lease_id: String,
    /// When the login ends.
    pub expires_at: Timestamp,
}

/// Everything but the password.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("username", &self.username)
            .field("dbname", &self.dbname)
            .field("ssl", &self.ssl)
            .field("lease_id", &self.lease_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl Credential {
    /// The secret's value: the JSON shape of RDS secrets, which the AWS JDBC driver, its wrappers
    /// and RDS's rotation functions read, with `lease_id` and `expires_at` (RFC 3339) added.
    ///
    /// # Panics
    /// Never: strings and numbers always have a JSON form.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "serialising strings into memory cannot fail"
    )]
    pub fn to_secret(&self) -> SecretString {
        /// Lives only in here, so that nothing else can serialise a password.
        #[derive(Serialize)]
        struct Value<'a> {
            engine: &'static str,
            host: &'a str,
            port: u16,
            username: &'a str,
            password: &'a str,
            dbname: &'a str,
            ssl: bool,
            lease_id: &'a str,
            expires_at: Timestamp,
        }

        let password = self.password.expose_secret();
        // A buffer that never grows leaves no copy behind: a character takes at most six bytes
        // escaped, and keys, numbers and the timestamp fit into 256.
        let texts = [
            &self.host,
            &self.username,
            password,
            &self.dbname,
            &self.lease_id,
        ];
        let capacity = 256 + 6 * texts.iter().map(|text| text.len()).sum::<usize>();
        let mut json = Zeroizing::new(Vec::with_capacity(capacity));
        serde_json::to_writer(
            &mut *json,
            &Value {
                engine: "postgres",
                host: &self.host,
                port: self.port,
                username: &self.username,
                password,
                dbname: &self.dbname,
                ssl: self.ssl,
                lease_id: &self.lease_id,
                expires_at: self.expires_at,
            },
        )
        .expect("strings and numbers have a JSON form");
        debug_assert!(json.len() <= capacity);
        SecretString::from(str::from_utf8(&json).expect("JSON is UTF-8"))
    }

    /// Reads what [`Credential::to_secret`] wrote; fields that later versions add are let pass.
    /// `None` for anything else: what exactly is wrong with it could quote the password.
    #[must_use]
    pub fn from_secret(secret: &SecretString) -> Option<Self> {
        /// Lives only in here, as above.
        #[derive(Deserialize)]
        struct Value {
            host: String,
            port: u16,
            username: String,
            password: String,
            dbname: String,
            ssl: bool,
            lease_id: String,
            expires_at: Timestamp,
        }

        let value: Value = serde_json::from_str(secret.expose_secret()).ok()?;
        Some(Self {
            host: value.host,
            port: value.port,
            username: value.username,
            password: SecretString::from(value.password),
            dbname: value.dbname,
            ssl: value.ssl,
            lease_id: value.lease_id,
            expires_at: value.expires_at,
        })
    }
}

/// The tag that names the installation.
pub const INSTALLATION_TAG: &str = "keycard-installation";

/// The tags of a lease's secret, by which operators find it and reconciliation knows it as its own.
/// Every value keeps to what AWS allows in tags (at most 256 letters, digits, spaces and
/// `_.:/=+-@`), if the installation's name does.
#[must_use]
pub fn tags(installation: &str, lease: &Lease) -> BTreeMap<String, String> {
    [
        ("managed-by", "keycard".to_owned()),
        (INSTALLATION_TAG, installation.to_owned()),
        ("lease-id", lease.id.to_string()),
        ("expires-at", lease.expires_at.to_string()),
        ("requester", lease.requester.encoded()),
        ("role", lease.role.clone()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{LeaseId, Requester, State};

    const CANARY: &str = "canary-\"\\\u{1}-password";

    fn credential() -> Credential {
        Credential {
            host: "db.internal".to_owned(),
            port: 5432,
            username: "kc_app_x".to_owned(),
            password: SecretString::from(CANARY),
            dbname: "app".to_owned(),
            ssl: true,
            lease_id: "app-db.01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
            expires_at: "2026-01-02T03:04:05Z".parse().unwrap(),
        }
    }

    #[test]
    fn the_value_has_the_shape_of_rds_secrets() {
        let secret = credential().to_secret();
        let value: serde_json::Value = serde_json::from_str(secret.expose_secret()).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "engine": "postgres",
                "host": "db.internal",
                "port": 5432,
                "username": "kc_app_x",
                "password": CANARY,
                "dbname": "app",
                "ssl": true,
                "lease_id": "app-db.01890a5d-ac96-774b-bcce-b302099a8057",
                "expires_at": "2026-01-02T03:04:05Z",
            })
        );
    }

    #[test]
    fn a_client_reads_what_the_worker_wrote() {
        let secret = credential().to_secret();
        let read = Credential::from_secret(&secret).unwrap();
        assert_eq!(read.password.expose_secret(), CANARY);
        assert_eq!(read.to_secret().expose_secret(), secret.expose_secret());
        assert!(Credential::from_secret(&"{}".into()).is_none());
    }

    #[test]
    fn debug_does_not_show_the_password() {
        let shown = format!("{:?} {:?}", credential(), credential().to_secret());
        assert!(
            shown.contains("kc_app_x") && !shown.contains("canary"),
            "{shown}"
        );
    }

    #[test]
    fn tags_keep_to_what_aws_allows() {
        let expires_at = "2026-01-02T03:04:05Z".parse().unwrap();
        let lease = Lease {
            id: LeaseId {
                database: "app-db".to_owned(),
                uuid: uuid::Uuid::nil(),
            },
            role: "app.read".to_owned(),
            requester: Requester::new("ä/../b c").unwrap(),
            username: "kc_app_x".to_owned(),
            issued_at: expires_at,
            expires_at,
            max_expires_at: expires_at,
            ttl_clamped: false,
            generation: 1,
            attempt: 1,
            held_until: None,
            sessions_terminated: 0,
            state: State::Active,
        };
        let tags = tags("production", &lease);
        let expected = [
            ("expires-at", "2026-01-02T03:04:05Z"),
            ("keycard-installation", "production"),
            ("lease-id", "app-db.00000000-0000-0000-0000-000000000000"),
            ("managed-by", "keycard"),
            ("requester", "=C3=A4=2F=2E=2E=2Fb=20c"),
            ("role", "app.read"),
        ];
        assert!(
            tags.iter()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .eq(expected)
        );
        for text in tags.iter().flat_map(|(key, value)| [key, value]) {
            assert!(text.len() <= 256);
            assert!(
                text.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b" _.:/=+-@".contains(&byte))
            );
        }
    }
}
