//! What keycard's own user may do, and which groups it may grant.

use std::collections::BTreeMap;

use postgres_protocol::escape::escape_identifier;

use crate::check::Check;
use crate::ledger::{Ledger, LedgerError, View};
use crate::login::Owned;

impl Ledger {
    /// What keycard's user may do; each missing grant by its name. Whether it may do what every
    /// login needs: a missing group is the affair of the roles that name it.
    pub(super) async fn look_at_privileges(
        &self,
        view: &View,
        checks: &mut Vec<Check>,
    ) -> Result<bool, LedgerError> {
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
        let is_able = missing.is_empty();
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
        Ok(is_able)
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
}
