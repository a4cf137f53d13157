//! Roles: their statements, times and requesters.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::Role;
use super::duration::show;
use super::keys::suggest;
use super::section::Section;
use super::statements::{self, Purpose};
use crate::lease::RolePolicy;
use crate::login::{Owned, Statements};

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// Longest `max_ttl`.
const TTL_SECONDS_MAX: u64 = 366 * DAY;

/// Default of `min_ttl`: less hardly outlives its own delivery.
const MIN_TTL_SECONDS: u64 = 10;

/// Longest name that Postgres keeps, in bytes.
const POSTGRES_NAME_BYTES_MAX: usize = 63;

/// Whether `role` matches a pattern of `allowed_roles`, in which `*` stands for any characters.
fn matches(pattern: &str, role: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == role,
        Some((before, after)) => role.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && matches(after, &rest[at..]))
        }),
    }
}

/// Reads one role. `databases` maps each database to its `allowed_roles`, `None` when those are
/// faulty themselves.
pub(super) fn read(
    name: &str,
    section: &Section,
    databases: &BTreeMap<&str, Option<Vec<&str>>>,
) -> Option<Role> {
    let before = section.problems();
    let database = section.required_text("database", r#""my-postgres-db""#);
    if let Some(database) = database {
        allow(name, database, section, databases);
    }
    let groups = groups(section);
    let creation_statements = read_statements(section, "creation_statements", Purpose::Creation);
    let renew_statements = read_statements(section, "renew_statements", Purpose::Upkeep);
    let revocation_statements = read_statements(section, "revocation_statements", Purpose::Upkeep);
    let no_groups = groups.as_ref().is_some_and(Vec::is_empty);
    if no_groups && creation_statements.is_none() && section.problems() == before {
        section.report_here(
            "has neither groups nor creation_statements",
            r#"write groups = ["app_readwrite"], or creation_statements as in Vault"#,
        );
    }
    let owned = owned(section);
    let policy = RolePolicy {
        leases_max: section.number("max_leases", 1..=u32::MAX.into()),
        ..times(section)
    };
    let role = Role {
        database: database?.to_owned(),
        groups: groups?,
        creation_statements,
        renew_statements,
        revocation_statements,
        owned: owned?,
        connection_limit: section.number("connection_limit", 1..=i32::MAX.into()),
        policy,
        requesters: section.requesters("requesters")?,
        scram_iterations: section
            .number("scram_iterations", 1..=1_000_000)
            .unwrap_or(4_096),
    };
    (section.problems() == before).then_some(role)
}

/// Reports a database that is unknown or does not allow the role.
fn allow(
    name: &str,
    database: &str,
    section: &Section,
    databases: &BTreeMap<&str, Option<Vec<&str>>>,
) {
    match databases.get(database) {
        // That there is no database at all is reported already.
        None if databases.is_empty() => {}
        None => {
            let known: Vec<&str> = databases.keys().copied().collect();
            section.report(
                "database",
                format!("{database:?} is not one of [databases]"),
                suggest(database, &known),
            );
        }
        Some(Some(patterns)) if !patterns.iter().any(|pattern| matches(pattern, name)) => {
            section.report(
                "database",
                format!("{database:?} does not allow this role"),
                format!("add {name:?} to its allowed_roles"),
            );
        }
        Some(_) => {}
    }
}

/// Sorted, so that two issues take the groups' locks in one order.
fn groups(section: &Section) -> Option<Vec<String>> {
    let mut groups: Vec<String> = section
        .texts("groups")?
        .into_iter()
        .map(Into::into)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    if let Some(long) = groups
        .iter()
        .find(|group| group.len() > POSTGRES_NAME_BYTES_MAX)
    {
        section.report(
            "groups",
            format!("{long:?} has more than {POSTGRES_NAME_BYTES_MAX} bytes"),
            "write the role's name as pg_roles shows it",
        );
        return None;
    }
    Some(groups)
}

/// What becomes of what logins own: one answer at most.
fn owned(section: &Section) -> Option<Owned> {
    const KEEPER: &str = "reassign_owned_to";
    const DROP: &str = "drop_owned";
    let before = section.problems();
    let keeper = section.text(KEEPER);
    let drops = section.flag(DROP) == Some(true);
    if keeper.is_some_and(|keeper| keeper.len() > POSTGRES_NAME_BYTES_MAX) {
        section.report(
            KEEPER,
            format!("has more than {POSTGRES_NAME_BYTES_MAX} bytes"),
            "write the role's name as pg_roles shows it",
        );
    }
    if keeper.is_some() && drops {
        section.report(DROP, "contradicts reassign_owned_to", "keep one of them");
    }
    for (key, given) in [(KEEPER, keeper.is_some()), (DROP, drops)] {
        if given && section.has("revocation_statements") {
            section.report(
                key,
                "does nothing beside revocation_statements",
                "keep one of them: the statements look after what the login owns",
            );
        }
    }
    (section.problems() == before).then(|| match keeper {
        Some(keeper) => Owned::Reassigned(keeper.to_owned()),
        None if drops => Owned::Dropped,
        None => Owned::Kept,
    })
}

/// `None` when there are none, and when they are faulty, which is reported.
fn read_statements(section: &Section, key: &str, purpose: Purpose) -> Option<Statements> {
    if !section.has(key) {
        return None;
    }
    let checked = if section.is_text(key) {
        statements::script(section.text(key)?, purpose)
    } else {
        match section.texts(key)?.as_slice() {
            [] => return None,
            texts => statements::each(texts, purpose),
        }
    };
    let faults = match checked {
        Ok(statements) => return Some(statements),
        Err(faults) => faults,
    };
    for (problem, remedy) in faults {
        section.report(key, problem, remedy);
    }
    None
}

/// The times to live; what is faulty is reported and replaced.
fn times(section: &Section) -> RolePolicy {
    let before = section.problems();
    let own_default = section.seconds("default_ttl", 1..=TTL_SECONDS_MAX);
    let own_max = section.seconds("max_ttl", 1..=TTL_SECONDS_MAX);
    let own_min = section.seconds("min_ttl", 1..=TTL_SECONDS_MAX);
    let max = own_max.unwrap_or(DAY.max(own_default.unwrap_or_default()));
    let default = own_default.unwrap_or(HOUR.min(max));
    let min = own_min.unwrap_or(MIN_TTL_SECONDS.min(default));
    if section.problems() == before {
        if default > max {
            section.report(
                "default_ttl",
                format!("{} is more than max_ttl, {}", show(default), show(max)),
                "lower it or raise max_ttl",
            );
        } else if min > default {
            section.report(
                "min_ttl",
                format!("{} is more than default_ttl, {}", show(min), show(default)),
                "lower it or raise default_ttl",
            );
        }
    }
    let duration = |seconds: u64| SignedDuration::from_secs(seconds.cast_signed());
    RolePolicy {
        default_ttl: duration(default),
        max_ttl: duration(max),
        min_ttl: duration(min),
        leases_max: None,
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, role) in [
            ("app-role", "app-role"),
            ("*", "anything"),
            ("app-*", "app-"),
            ("app-*", "app-role"),
            ("*-ro", "app-ro"),
            ("a*b*c", "a-b-b-c"),
        ] {
            assert!(matches(pattern, role), "{pattern} {role}");
        }
        for (pattern, role) in [
            ("app-role", "app-role2"),
            ("app-*", "my-app-role"),
            ("*-ro", "app-row"),
            ("a*b*c", "a-c"),
            ("", "a"),
            ("APP-*", "app-role"),
        ] {
            assert!(!matches(pattern, role), "{pattern} {role}");
        }
    }
}
