//! Roles: times, statements, who may.

use super::super::*;
use super::{edited, templated};

#[test]
fn times_to_live_have_vaults_defaults_within_24_hours() {
    const DAY: i64 = 86_400;
    for (keys, default, max, min) in [
        ("", 3_600, DAY, 10),
        ("default_ttl = '2s'", 2, DAY, 2),
        ("default_ttl = '48h'", 2 * DAY, 2 * DAY, 10),
        ("max_ttl = '30m'", 1_800, 1_800, 10),
        ("max_ttl = '5s'", 5, 5, 5),
        ("max_ttl = '366d'\ndefault_ttl = 90", 90, 366 * DAY, 10),
        ("min_ttl = '1s'", 3_600, DAY, 1),
    ] {
        let policy = templated(&format!("groups = ['g']\n{keys}"))
            .unwrap()
            .policy;
        let seconds = [policy.default_ttl, policy.max_ttl, policy.min_ttl].map(|ttl| ttl.as_secs());
        assert_eq!(seconds, [default, max, min], "{keys}");
    }
}

#[test]
fn faults_of_a_role_are_told() {
    for (keys, line) in [
        ("", "has neither groups nor creation_statements"),
        (
            "creation_statements = []",
            "has neither groups nor creation_statements",
        ),
        (
            "groups = ['g']\ndefault_ttl = '25h'\nmax_ttl = '1d'",
            "default_ttl: 1d1h is more than max_ttl, 1d",
        ),
        (
            "groups = ['g']\nmin_ttl = '2h'",
            "min_ttl: 2h is more than default_ttl, 1h",
        ),
        (
            "groups = ['g']\nmin_ttl = 0",
            "min_ttl: 0 is out of range; write a duration from 1s to 366d",
        ),
        (
            "groups = ['g']\nmax_ttl = '367d'",
            "max_ttl: \"367d\" is out of range",
        ),
        (
            "groups = ['g']\nmax_ttl = -1",
            "max_ttl: -1 is not a duration",
        ),
        (
            "groups = ['g']\nmax_ttl = 1.5",
            "max_ttl: the value is not a duration",
        ),
        (
            "groups = ['g']\nscram_iterations = 0",
            "scram_iterations: 0 is out of range",
        ),
        (
            "groups = ['g']\nmax_leases = 0",
            "max_leases: 0 is out of range",
        ),
        ("groups = 'g'", "groups: is not a list of texts"),
        ("groups = ['']", "groups: has an empty text"),
        (
            "creation_statements = 'SELECT 1'",
            "creation_statements: no statement has {{name}}",
        ),
        (
            "creation_statements = 7",
            "creation_statements: is not a list of texts",
        ),
        (
            "groups = ['g']\ndrop_owned = true\nreassign_owned_to = 'k'",
            "drop_owned: contradicts reassign_owned_to",
        ),
        (
            "groups = ['g']\ndrop_owned = true\nrevocation_statements = ['SELECT 1']",
            "drop_owned: does nothing beside revocation_statements",
        ),
        (
            "groups = ['g']\ndrop_owned = 'yes'",
            "drop_owned: is neither true nor false; write one of them, without quotes",
        ),
    ] {
        let errors = templated(keys).unwrap_err();
        assert_eq!(errors.problems().len(), 1, "{keys}: {errors}");
        assert!(errors.to_string().contains(line), "{errors}");
    }
}

#[test]
fn groups_and_statements_go_together() {
    let role = templated("groups = ['b', 'a', 'b']\ncreation_statements = ''' CREATE ROLE \"{{name}}\" PASSWORD '{{password}}'; SELECT 1; '''").unwrap();
    assert_eq!(role.groups, ["a", "b"]);
    assert!(matches!(
        role.creation_statements,
        Some(Statements::Script(_))
    ));
}

#[test]
fn who_may_is_denied_by_default() {
    let errors = edited("allowed_roles = [\"app-role\"]", "").unwrap_err();
    assert_eq!(
        errors.to_string(),
        "roles.app-role.database: \"my-postgres-db\" does not allow this role; \
         add \"app-role\" to its allowed_roles"
    );
    assert!(
        edited(
            "allowed_roles = [\"app-role\"]",
            "allowed_roles = ['x', 'app-*']"
        )
        .is_ok()
    );
    let config = edited("requesters = [\"orders-svc\"]", "").unwrap();
    assert!(config.roles["app-role"].requesters.is_empty());
    let errors = edited("[\"orders-svc\"]", "['*']").unwrap_err();
    assert!(
        errors.to_string().contains("looks like a pattern"),
        "{errors}"
    );
    let errors = edited("[\"orders-svc\"]", "['keycard-doctor']").unwrap_err();
    assert_eq!(
        errors.to_string(),
        "roles.app-role.requesters: \"keycard-doctor\" is the requester of `keycard doctor`; \
         give that user another name"
    );
}
