//! Looking at one database as `keycard doctor` does: what is there, what is missing, what it will
//! come to. Nothing is changed.

mod privileges;
mod room;

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::ready;
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use tokio_postgres::config::Host;

use super::schema::{check_owner, check_record};
use super::{Ledger, LedgerError, View};
use crate::check::{Check, is_this_host};
use crate::clock;

/// Major versions of Postgres that keycard is tested with.
const VERSIONS: std::ops::RangeInclusive<i32> = 15..=18;

/// A host that is so far off surprises whoever compares its log with the ledger's times.
const CLOCK_DIFFERENCE: SignedDuration = SignedDuration::from_secs(5);

/// From here on commands of this host are denied, and AWS refuses its signatures.
const CLOCK_DIFFERENCE_MAX: SignedDuration = SignedDuration::from_mins(5);

/// How long an overdue lease may wait for the next sweep.
const OVERDUE_SECONDS: f64 = 60.0;

/// What a look at a database came to.
#[derive(Debug)]
pub struct Examined {
    /// What was looked at.
    pub checks: Vec<Check>,
    /// The database's clock if leases can be issued and revoked there; or else why they cannot.
    pub fit: Result<Timestamp, &'static str>,
}

impl Ledger {
    /// Looks at the database, its ledger and what keycard's user may do there. A worker has more
    /// connections where it `has_queue`.
    pub async fn examine(&self, has_queue: bool) -> Examined {
        let mut checks = Vec::new();
        let unfit = |checks| Examined {
            checks,
            fit: Err("see the database's own checks"),
        };
        let view = match self.unchecked_view().await {
            Ok(view) => view,
            Err(error) => {
                checks.push(Check::failed(self.named("connection"), &error));
                return unfit(checks);
            }
        };
        match self.look(&view, has_queue, &mut checks).await {
            Ok(fit) => Examined { checks, fit },
            Err(error) => {
                checks.push(Check::failed(self.named("connection"), &error));
                unfit(checks)
            }
        }
    }

    fn named(&self, what: &str) -> String {
        format!("databases.{}.{what}", self.database)
    }

    async fn look(
        &self,
        view: &View,
        has_queue: bool,
        checks: &mut Vec<Check>,
    ) -> Result<Result<Timestamp, &'static str>, LedgerError> {
        let now = self.look_at_server(view, checks).await?;
        let has_privileges = self.look_at_privileges(view, checks).await?;
        self.look_at_room(view, has_queue, checks).await?;
        let fit = self.look_at_ledger(view, checks).await?;
        Ok(match fit {
            Err(reason) => Err(reason),
            Ok(()) if !has_privileges => Err("keycard's user lacks privileges"),
            Ok(()) => Ok(now),
        })
    }

    /// Whom keycard speaks to, and what time it is there.
    async fn look_at_server(
        &self,
        view: &View,
        checks: &mut Vec<Check>,
    ) -> Result<Timestamp, LedgerError> {
        let asked = clock::host_now();
        let rows = view
            .ask(
                "SELECT current_setting('server_version'),
                        current_setting('server_version_num')::integer / 10000, clock_timestamp()",
                &[],
            )
            .await?;
        let answered = clock::host_now();
        let row = self.only(&rows)?;
        let (version, major, now): (&str, i32, Timestamp) = (row.get(0), row.get(1), row.get(2));

        let endpoint = &self.pool.manager().endpoint;
        let (name, seen) = (self.named("connection"), format!("PostgreSQL {version}"));
        checks.push(if endpoint.tls.is_some() {
            Check::ok(name, format!("{seen}, over verified TLS"))
        } else if endpoint.config.get_hosts().iter().all(is_here) {
            Check::ok(name, format!("{seen}, without TLS on this host"))
        } else {
            Check::warning(
                name,
                format!("{seen}, without TLS: whoever is between reads and changes what is said"),
                "take sslmode=disable out of connection_url",
            )
        });
        let name = self.named("version");
        checks.push(if VERSIONS.contains(&major) {
            Check::ok(name, major.to_string())
        } else if major < *VERSIONS.start() {
            let remedy = format!("upgrade to {} or newer", VERSIONS.start());
            Check::failure(name, format!("{major} is too old"), remedy)
        } else {
            let seen = format!("{major} is newer than what keycard was tested with");
            Check::warning(name, seen, "upgrade keycard")
        });
        checks.push(self.clock(asked, now, answered));
        Ok(now)
    }

    /// The difference that the time in between cannot explain.
    fn clock(&self, asked: Timestamp, there: Timestamp, answered: Timestamp) -> Check {
        let difference = if there < asked {
            asked.duration_since(there)
        } else {
            there.duration_since(answered).max(SignedDuration::ZERO)
        };
        let name = self.named("clock");
        let seen = format!(
            "this host and the database differ by {:.1} s",
            difference.as_secs_f64()
        );
        let remedy = "have both set their clocks by the same time servers";
        if difference >= CLOCK_DIFFERENCE_MAX {
            Check::failure(name, seen, remedy)
        } else if difference >= CLOCK_DIFFERENCE {
            Check::warning(name, seen, remedy)
        } else {
            Check::ok(name, seen)
        }
    }

    /// Whose ledger it is, and what waits in it.
    async fn look_at_ledger(
        &self,
        view: &View,
        checks: &mut Vec<Check>,
    ) -> Result<Result<(), &'static str>, LedgerError> {
        let name = self.named("ledger");
        let version = match self.ledger_version(view).await {
            Ok(version) => version,
            Err(LedgerError::NoLedger { .. }) => {
                let seen = "there is none yet";
                checks.push(Check::warning(
                    name,
                    seen,
                    "start `keycard worker`, which makes it",
                ));
                return Ok(Err("there is no ledger yet"));
            }
            Err(LedgerError::Older { version, known, .. }) => {
                let seen = format!("version {version}");
                let remedy = format!("start `keycard worker`, which makes it version {known}");
                checks.push(Check::warning(name, seen, remedy));
                return Ok(Err("the ledger is older than this keycard"));
            }
            Err(error) => {
                checks.push(Check::failed(name, &error));
                return Ok(Err("the ledger cannot be used"));
            }
        };
        let seen = format!(
            "version {version} of installation {:?}",
            self.rules.installation
        );
        checks.push(Check::ok(name, seen));

        let leases = self.count().await?;
        let name = self.named("leases");
        let before = checks.len();
        if leases.overdue_seconds_max > OVERDUE_SECONDS {
            let seen = format!(
                "{} overdue, the oldest by {:.0} s: Postgres refuses their logins, open sessions go on",
                leases.overdue, leases.overdue_seconds_max
            );
            checks.push(if leases.frozen {
                Check::warning(&name, seen, "they end with `keycard thaw`")
            } else {
                let remedy = "start `keycard worker`, or read in its log what keeps it";
                Check::failure(&name, seen, remedy)
            });
        }
        if leases.stuck > 0 {
            checks.push(Check::failure(
                &name,
                format!(
                    "{} stuck: their logins are disabled and cannot be dropped",
                    leases.stuck
                ),
                "`keycard lease list --state stuck` says which, and `keycard lease show` why",
            ));
        }
        if leases.frozen {
            checks.push(Check::warning(
                &name,
                "revocations are frozen",
                "`keycard audit` says who froze them and why; `keycard thaw` has them go on",
            ));
        }
        if checks.len() == before {
            let live = leases.live;
            checks.push(Check::ok(
                name,
                format!("{live} alive, none overdue or stuck"),
            ));
        }
        Ok(if leases.frozen {
            Err("revocations are frozen: it could not be given back")
        } else {
            Ok(())
        })
    }

    async fn ledger_version(&self, view: &View) -> Result<i32, LedgerError> {
        check_record(&view.client, &self.database, &self.rules.installation).await?;
        check_owner(&view.client, &self.database).await?;
        let newest = "SELECT max(version) FROM keycard.migrations";
        let rows = view.ask(newest, &[]).await?;
        Ok(self.only(&rows)?.get(0))
    }

    /// Logs in as one of its logins, the way keycard itself connects. Returns to how many relations
    /// the login was granted privileges of its own.
    ///
    /// # Errors
    /// When Postgres does not let it in.
    pub async fn log_in(
        &self,
        username: &str,
        password: &SecretString,
    ) -> Result<i64, LedgerError> {
        let mut endpoint = self.pool.manager().endpoint.clone();
        endpoint.config.user(username);
        let password = password.clone();
        endpoint.password = Arc::new(move || ready(Ok(password.clone())).boxed());
        let client = endpoint.connect(&self.database).await?;
        let view = View::of(&self.database, client).await?;
        let rows = view
            .ask(
                "SELECT count(DISTINCT objid) FROM pg_shdepend
                 WHERE refclassid = 'pg_authid'::regclass AND classid = 'pg_class'::regclass
                   AND deptype = 'a'
                   AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = session_user)",
                &[],
            )
            .await?;
        Ok(self.only(&rows)?.get(0))
    }

    fn only<'a>(
        &self,
        rows: &'a [tokio_postgres::Row],
    ) -> Result<&'a tokio_postgres::Row, LedgerError> {
        rows.first().ok_or_else(|| LedgerError::Row {
            database: self.database.clone(),
            problem: "Postgres answers nothing".to_owned(),
        })
    }
}

fn is_here(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => is_this_host(name),
    }
}
