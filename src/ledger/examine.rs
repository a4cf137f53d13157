//! Looking at one database as `keycard doctor` does: what is there, what is missing, what it will
//! come to. Nothing is changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::ready;
use jiff::{SignedDuration, Timestamp};
use postgres_protocol::escape::escape_identifier;
use secrecy::SecretString;
use tokio_postgres::config::Host;

use super::schema::{LEDGER_VERSION, check_owner, check_record};
use super::{Ledger, LedgerError, View};
use crate::check::{Check, Status};
use crate::clock;
use crate::login::Owned;

/// Major versions of Postgres that keycard is tested with.
const VERSIONS: std::ops::RangeInclusive<i32> = 15..=18;

/// A host that is so far off surprises whoever compares its log with the ledger's times.
const CLOCK_DIFFERENCE: SignedDuration = SignedDuration::from_secs(5);

/// From here on commands of this host are denied, and AWS refuses its signatures.
const CLOCK_DIFFERENCE_MAX: SignedDuration = SignedDuration::from_mins(5);

/// Connections of a worker beside its pool: migrations or a look at the database, the queue's, and
/// one to clear away what a login leaves.
const CONNECTIONS_BESIDE: i64 = 3;

/// Memberships from which on creating a login is noticeably slower (see README.md).
const MEMBERSHIPS: i64 = 1_000;

/// Direct grants to logins on one table: at some 2,400 Postgres refuses the next.
const GRANTS: i64 = 500;

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
    /// Looks at the database, its ledger and what keycard's user may do there.
    pub async fn examine(&self) -> Examined {
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
        match self.look(&view, &mut checks).await {
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
        checks: &mut Vec<Check>,
    ) -> Result<Result<Timestamp, &'static str>, LedgerError> {
        let now = self.look_at_server(view, checks).await?;
        let before = checks.len();
        self.look_at_privileges(view, checks).await?;
        let has_privileges = checks[before..]
            .iter()
            .all(|check| check.status != Status::Failure);
        self.look_at_room(view, checks).await?;
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
        } else if endpoint.config.get_hosts().iter().all(is_this_host) {
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

    /// What keycard's user may do; each missing grant by its name.
    async fn look_at_privileges(
        &self,
        view: &View,
        checks: &mut Vec<Check>,
    ) -> Result<(), LedgerError> {
        let rows = view
            .ask(
                "SELECT current_user::text, rolsuper, rolcreaterole,
                        pg_has_role('pg_signal_backend', 'USAGE'), current_database()::text,
                        (SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace
                         WHERE nspname = 'keycard'),
                        has_database_privilege(current_database(), 'CREATE'),
                        current_setting('server_version_num')::integer >= 160000
                 FROM pg_roles WHERE rolname = current_user",
                &[],
            )
            .await?;
        let row = self.only(&rows)?;
        let name = self.named("privileges");
        let (user, is_super): (&str, bool) = (row.get(0), row.get(1));
        let admin = escape_identifier(user);
        let mut missing: Vec<(String, String)> = Vec::new();
        if !is_super && !row.get::<_, bool>(2) {
            missing.push((
                format!("{user:?} has no CREATEROLE"),
                format!("ALTER ROLE {admin} CREATEROLE"),
            ));
        }
        if !row.get::<_, bool>(3) {
            missing.push((
                format!("{user:?} cannot end sessions"),
                format!("GRANT pg_signal_backend TO {admin}"),
            ));
        }
        match row.get::<_, Option<&str>>(5) {
            Some(owner) if owner == user => {}
            Some(owner) => missing.push((
                format!("schema keycard belongs to {owner:?}"),
                format!("ALTER SCHEMA keycard OWNER TO {admin}"),
            )),
            None if row.get(6) => {}
            None => missing.push((
                format!("there is no schema keycard, and {user:?} may not create it"),
                format!(
                    "CREATE SCHEMA keycard AUTHORIZATION {admin}; as `keycard setup-sql --database {}` says",
                    self.database
                ),
            )),
        }
        let since_16 = row.get(7);
        missing.extend(self.missing_groups(view, &admin, since_16).await?);
        if missing.is_empty() && is_super {
            checks.push(Check::warning(
                self.named("superuser"),
                format!("{user:?} is a superuser, and keycard needs none"),
                format!(
                    "name another user, made by `keycard setup-sql --database {}`",
                    self.database
                ),
            ));
        } else if missing.is_empty() {
            checks.push(Check::ok(&name, format!("{user:?} has what it needs")));
        }
        checks.extend(
            missing
                .into_iter()
                .map(|(seen, remedy)| Check::failure(&name, seen, remedy)),
        );
        Ok(())
    }

    /// Groups and keepers of this database's roles that keycard's user cannot grant, with what
    /// mends it.
    async fn missing_groups(
        &self,
        view: &View,
        admin: &str,
        since_16: bool,
    ) -> Result<Vec<(String, String)>, LedgerError> {
        let mut wanted: BTreeMap<&str, String> = BTreeMap::new();
        for (name, role) in &self.rules.roles {
            if role.database != self.database {
                continue;
            }
            for group in &role.template.groups {
                wanted
                    .entry(group)
                    .or_insert_with(|| format!("roles.{name}.groups"));
            }
            if let Owned::Reassigned(keeper) = &role.template.upkeep.owned {
                wanted
                    .entry(keeper)
                    .or_insert_with(|| format!("roles.{name}.reassign_owned_to"));
            }
        }
        let names: Vec<&str> = wanted.keys().copied().collect();
        let rows = view
            .ask(
                r#"SELECT asked.name, r.oid IS NOT NULL,
                          coalesce(pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION'), false)
                   FROM unnest($1::text[]) AS asked (name)
                   LEFT JOIN pg_roles r ON r.rolname::text COLLATE "default" = asked.name"#,
                &[&names],
            )
            .await?;
        let mut missing = Vec::new();
        for row in &rows {
            let group: &str = row.get(0);
            let by = wanted.get(group).map_or("", String::as_str);
            let quoted = escape_identifier(group);
            if !row.get::<_, bool>(1) {
                missing.push((
                    format!("there is no role {group:?}, which {by} names"),
                    format!("CREATE ROLE {quoted} NOLOGIN, and grant it what logins may do"),
                ));
            } else if since_16 && !row.get::<_, bool>(2) {
                missing.push((
                    format!("keycard's user may not grant {group:?}, which {by} names"),
                    format!("GRANT {quoted} TO {admin} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE"),
                ));
            }
        }
        Ok(missing)
    }

    /// What may run out: connections, memberships of keycard's user, tables' access lists.
    async fn look_at_room(&self, view: &View, checks: &mut Vec<Check>) -> Result<(), LedgerError> {
        // Autovacuum's and parallel workers count as well: they are few, and hide their kind.
        let rows = view
            .ask(
                "WITH sessions AS MATERIALIZED (
                     SELECT datid, usesysid FROM pg_stat_activity WHERE datid IS NOT NULL)
                 SELECT least(
                     current_setting('max_connections')::bigint
                         - current_setting('superuser_reserved_connections')::bigint
                         - coalesce(current_setting('reserved_connections', true), '0')::bigint
                         - (SELECT count(*) FROM sessions),
                     CASE WHEN rolconnlimit >= 0 THEN rolconnlimit
                         - (SELECT count(*) FROM sessions WHERE usesysid = r.oid) END,
                     CASE WHEN datconnlimit >= 0 THEN datconnlimit
                         - (SELECT count(*) FROM sessions WHERE datid = d.oid) END)
                 FROM pg_roles r, pg_database d
                 WHERE rolname = current_user AND datname = current_database()",
                &[],
            )
            .await?;
        let room: i64 = self.only(&rows)?.get(0);
        let size = i64::try_from(self.pool.status().max_size).unwrap_or(i64::MAX);
        let wanted = size.saturating_add(CONNECTIONS_BESIDE);
        let name = self.named("connections");
        let seen = format!("room for {room} more, and a worker takes up to {wanted}");
        checks.push(if room >= wanted {
            Check::ok(name, seen)
        } else {
            let remedy = "raise max_connections in Postgres (or the limit of keycard's user or of the database), or lower the configuration's";
            Check::warning(name, seen, remedy)
        });

        let rows = view
            .ask(
                "SELECT count(*) FROM pg_auth_members m
                 JOIN pg_roles own ON own.oid = m.member JOIN pg_roles login ON login.oid = m.roleid
                 WHERE own.rolname = current_user
                   AND login.rolname >= 'kc_'::name AND login.rolname < 'kc`'::name",
                &[],
            )
            .await?;
        let memberships: i64 = self.only(&rows)?.get(0);
        let name = self.named("memberships");
        let seen = format!("keycard's user is a member of {memberships} logins");
        checks.push(if memberships < MEMBERSHIPS {
            Check::ok(name, seen)
        } else {
            let remedy =
                "shorten default_ttl, or have services share a login for longer: creating slows down with each";
            Check::warning(name, seen, remedy)
        });

        let rows = view
            .ask(
                "SELECT relation::regclass::text, grants FROM (
                     SELECT c.oid, (SELECT count(DISTINCT grantee) FROM aclexplode(relacl) a
                                    JOIN pg_roles r ON r.oid = grantee
                                    WHERE rolname >= 'kc_'::name AND rolname < 'kc`'::name)
                     FROM pg_class c WHERE cardinality(relacl) >= $1::bigint
                 ) AS counted (relation, grants)
                 WHERE grants >= $1::bigint ORDER BY grants DESC LIMIT 1",
                &[&GRANTS],
            )
            .await?;
        let name = self.named("grants");
        checks.push(match rows.first() {
            None => Check::ok(name, "no table's access list is full of logins"),
            Some(row) => Check::warning(
                name,
                format!(
                    "{} grants something to {} logins directly; Postgres refuses after some 2,400",
                    row.get::<_, &str>(0),
                    row.get::<_, i64>(1)
                ),
                "give roles `groups` instead of statements that GRANT",
            ),
        });
        Ok(())
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
            Err(error) => {
                checks.push(Check::failed(name, &error));
                return Ok(Err("the ledger cannot be used"));
            }
        };
        let seen = format!(
            "version {version} of installation {:?}",
            self.rules.installation
        );
        if version < LEDGER_VERSION {
            let remedy = format!("start `keycard worker`, which makes it version {LEDGER_VERSION}");
            checks.push(Check::warning(name, seen, remedy));
            return Ok(Err("the ledger is older than this keycard"));
        }
        checks.push(Check::ok(name, seen));

        let leases = self.count().await?;
        let name = self.named("leases");
        let before = checks.len();
        if leases.overdue_seconds_max > OVERDUE_SECONDS {
            checks.push(Check::failure(
                &name,
                format!(
                    "{} overdue, the oldest by {:.0} s",
                    leases.overdue, leases.overdue_seconds_max
                ),
                "start `keycard worker`, or read in its log what keeps it",
            ));
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
                "`keycard thaw`, once nothing speaks against it",
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

fn is_this_host(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse()
                    .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
        }
    }
}
