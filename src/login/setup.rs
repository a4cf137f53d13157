//! The script with which a DBA gives keycard's own user what it needs, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use postgres_protocol::escape::{escape_identifier, escape_literal};

/// The other roles that the script is about.
#[derive(Debug, Default)]
pub struct Setup<'a> {
    /// Those that keycard may grant.
    pub groups: BTreeSet<&'a str>,
    /// Those that get what logins leave, each with the groups it is a member of.
    pub keepers: BTreeMap<&'a str, BTreeSet<&'a str>>,
    /// Who will use the queue in this database.
    pub services: BTreeSet<&'a str>,
}

/// The script for one database, plain SQL for any client; `admin` is keycard's own user.
#[must_use]
pub fn setup_sql(dbname: &str, admin: &str, setup: &Setup<'_>) -> String {
    let Setup {
        groups,
        keepers,
        services,
    } = setup;
    let admin_name = escape_identifier(admin);
    let admin_text = escape_literal(admin);
    let database = escape_identifier(dbname);
    let mut script = format!(
        r"-- Run once in the database that keycard guards, as a superuser or as the user that made the
-- groups (on RDS the master user). It may be run again. No superuser is needed afterwards.

-- 1. keycard's own user. CREATEROLE lets it create, alter and drop logins.
--    From version 16 on it reaches only the logins it created itself and the groups of step 4. On
--    version 15 it reaches every role that is no superuser: give keycard a cluster of its own there,
--    or upgrade.
DO $keycard$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {admin_text}) THEN
        CREATE ROLE {admin_name} LOGIN CREATEROLE;
    END IF;
END $keycard$;
ALTER ROLE {admin_name} LOGIN CREATEROLE;
GRANT CONNECT ON DATABASE {database} TO {admin_name};

-- 2. Ending the sessions of a login that is revoked.
GRANT pg_signal_backend TO {admin_name};

-- 3. The schema of keycard's tables, which nobody else may use.
DO $keycard$ BEGIN
    IF to_regnamespace('keycard') IS NULL THEN
        GRANT {admin_name} TO CURRENT_USER;
        CREATE SCHEMA keycard AUTHORIZATION {admin_name};
        REVOKE ALL ON SCHEMA keycard FROM PUBLIC;
        REVOKE {admin_name} FROM CURRENT_USER;
    END IF;
END $keycard$;
"
    );
    for (keeper, member_of) in keepers {
        script.push_str(&keeper_sql(keeper, member_of));
    }
    if !groups.is_empty() || !keepers.is_empty() {
        script.push_str(
            r"
-- 4. The groups that logins become members of, and the roles that get what logins leave. keycard can
--    grant them without having their privileges itself. Version 15 needs no grant for that.
DO $keycard$ BEGIN
    IF current_setting('server_version_num')::integer >= 160000 THEN
",
        );
        let both: BTreeSet<&str> = groups.iter().chain(keepers.keys()).copied().collect();
        for group in both {
            let grant = format!(
                "GRANT {} TO {admin_name} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE",
                escape_identifier(group)
            );
            script.push_str("        EXECUTE ");
            script.push_str(&escape_literal(&grant));
            script.push_str(";\n");
        }
        script.push_str("    END IF;\nEND $keycard$;\n");
    }
    script.push_str(
        "\n-- 5. Set its password so that it appears in no log: in psql with \\password.\n",
    );
    if !services.is_empty() {
        script.push_str(
            r"
-- 6. Services and operators use the queue in this database, each as a role of its own. Those that
--    are not there yet are made like this, and given a password with \password. The worker itself
--    lets them in, within a minute.
",
        );
        for service in services {
            script.push_str("--    CREATE ROLE ");
            script.push_str(&escape_identifier(service));
            script.push_str(" LOGIN;\n");
        }
    }
    script
}

/// A role that gets what logins leave. It needs CREATE where logins create, and may have no privilege
/// that logins have not.
fn keeper_sql(keeper: &str, member_of: &BTreeSet<&str>) -> String {
    let name = escape_identifier(keeper);
    let text = escape_literal(keeper);
    let mut script = format!(
        r"
-- The role {name} gets what logins leave. Give it no privileges but by their groups.
DO $keycard$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {text}) THEN
        CREATE ROLE {name} NOLOGIN;
    END IF;
END $keycard$;
"
    );
    for group in member_of {
        let group = escape_identifier(group);
        let _ = writeln!(script, "GRANT {group} TO {name};");
    }
    script
}
