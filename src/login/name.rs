//! Usernames: they tell role and requester, and no two are alike.

use crate::clock;

/// Postgres cuts names at 63 *bytes* with nothing but a NOTICE (NAMEDATALEN - 1). Everything here is
/// ASCII, and 3 + 18 + 1 + 18 + 1 + 20 = 61.
const PART_BYTES_MAX: usize = 18;

/// Characters of the random tail; 5 bits each, so 100 bits.
const RANDOM_CHARACTERS: usize = 20;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A fresh username `kc_<role>_<requester>_<random>`: lower-case letters, digits and underscores, so
/// that it needs no quotes anywhere.
#[must_use]
pub fn username(role: &str, requester: &str) -> String {
    let random = clock::random_bytes::<RANDOM_CHARACTERS>()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
    format!(
        "kc_{}_{}_{}",
        part(role),
        part(requester),
        String::from_iter(random)
    )
}

fn part(text: &str) -> String {
    text.chars()
        .take(PART_BYTES_MAX)
        .map(|character| match character.to_ascii_lowercase() {
            plain @ ('a'..='z' | '0'..='9') => plain,
            _ => '_',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn usernames_tell_role_and_requester_and_fit_postgres() {
        for (role, requester, start) in [
            ("app-role", "orders-svc", "kc_app_role_orders_svc_"),
            ("a.b", "../x", "kc_a_b____x_"),
            (
                "ROLE_that_is_longer_than_fits",
                "ämter-für-äußerst-lange-namen",
                "kc_role_that_is_longe__mter_f_r__u_erst__",
            ),
        ] {
            let name = username(role, requester);
            assert!(name.starts_with(start), "{name}");
            assert_eq!(name.len(), start.len() + RANDOM_CHARACTERS);
            assert!(name.len() <= 63);
        }
    }

    #[test]
    fn a_thousand_usernames_are_distinct() {
        let names: BTreeSet<String> = (0..1000).map(|_| username("r", "q")).collect();
        assert_eq!(names.len(), 1000);
    }
}
