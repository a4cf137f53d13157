//! What may run out in a database.

use crate::check::Check;
use crate::ledger::{Ledger, LedgerError, View};

/// Connections of a worker beside its pool: one for migrations or a look at the database, two to
/// clear away what logins leave.
const CONNECTIONS_BESIDE: i64 = 3;

/// Sessions of the queue's lanes. It publishes through a pool of its own.
const LANES: i64 = 3;

/// Memberships from which on creating a login is noticeably slower (see README.md).
const MEMBERSHIPS: i64 = 1_000;

/// Direct grants to logins on one table: at some 2,400 Postgres refuses the next.
const GRANTS: i64 = 500;

impl Ledger {
    /// What may run out: connections, memberships of keycard's user, tables' access lists.
    pub(super) async fn look_at_room(
        &self,
        view: &View,
        has_queue: bool,
        checks: &mut Vec<Check>,
    ) -> Result<(), LedgerError> {
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
                         - (SELECT count(*) FROM sessions WHERE datid = d.oid) END),
                     current_setting('server_version_num')::integer >= 160000
                 FROM pg_roles r, pg_database d
                 WHERE rolname = current_user AND datname = current_database()",
                &[],
            )
            .await?;
        let row = self.only(&rows)?;
        let (room, since_16): (i64, bool) = (row.get(0), row.get(1));
        let size = i64::try_from(self.pool.status().max_size).unwrap_or(i64::MAX);
        let queue = if has_queue {
            size.saturating_add(LANES)
        } else {
            0
        };
        let wanted = size
            .saturating_add(CONNECTIONS_BESIDE)
            .saturating_add(queue);
        let name = self.named("connections");
        let seen = format!("room for {room} more; a worker takes up to {wanted}");
        checks.push(if room >= wanted {
            Check::ok(name, seen)
        } else {
            let remedy = "raise max_connections in Postgres (or the limit of keycard's user or of the database), or lower max_connections in keycard.toml";
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
        let seen = format!("keycard's user is a member of the {memberships} logins that it made");
        checks.push(if !since_16 {
            Check::ok(name, "version 15 makes nobody a member of what they create: nothing grows")
        } else if memberships < MEMBERSHIPS {
            Check::ok(name, seen)
        } else {
            let remedy =
                "shorten default_ttl, or have services ask less often: each live login slows down the making of the next";
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
}
