//! Names: how a requester's is written where others' are, and what is made of it.

use std::collections::BTreeSet;

use keycard::lease::{LeaseId, Requester, is_name};
use keycard::login::username;
use proptest::prelude::*;

use super::{any_text, corpus, search};

/// What [`Requester::encoded`] has written, read.
fn decoded(encoded: &str) -> Vec<u8> {
    let mut bytes = encoded.bytes();
    let mut name = Vec::new();
    while let Some(byte) = bytes.next() {
        name.push(match byte {
            b'=' => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                let digits = str::from_utf8(&digits).unwrap();
                assert_eq!(digits, digits.to_uppercase());
                u8::from_str_radix(digits, 16).unwrap()
            }
            plain => plain,
        });
    }
    name
}

fn check_requester(name: &str) {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
    let length: usize = name
        .bytes()
        .map(|byte| if plain(&byte) { 1 } else { 3 })
        .sum();
    let fits = (1..=128).contains(&length) && !name.contains(char::is_control);
    let requester = Requester::new(name);
    assert_eq!(requester.is_ok(), fits, "{name:?}: {requester:?}");
    let Ok(requester) = requester else {
        return;
    };
    let encoded = requester.encoded();
    // None of the separators and patterns of routing keys, paths and secrets' names, so that
    // `<encoded>.#` and `<encoded>/` begin nobody else's.
    assert!(
        encoded.bytes().all(|byte| plain(&byte) || byte == b'='),
        "{encoded}"
    );
    assert_eq!(encoded.len(), length);
    // Whoever can read it back has told it from every other.
    assert_eq!(decoded(&encoded), name.as_bytes());
    assert_eq!(requester.as_str(), name);
}

#[test]
fn encoded_requesters_are_told_from_each_other_and_hold_no_separator() {
    for case in corpus("requesters") {
        check_requester(str::from_utf8(&case).unwrap());
    }
    let near = "[a-z./=#*-]{0,5}|[a-z]{126,130}|[.]{41,44}|[a-zé]{40,70}";
    search(8, &prop_oneof![any_text(), near], |name| {
        check_requester(&name);
    });
}

#[test]
fn neighbours_bindings_and_paths_do_not_meet() {
    let name = "[a-c.=/#*2E]{1,6}";
    search(8, &(name, name), |(one, other)| {
        let keys = [&one, &other].map(|name| {
            let encoded = Requester::new(name).unwrap().encoded();
            [
                format!("{encoded}.keycard.lease.revoked.v1"),
                format!("{encoded}/app-role/x"),
            ]
        });
        let [own, others] = &keys;
        for (own, others) in own.iter().zip(others) {
            let bound = own.split_inclusive(['.', '/']).next().unwrap();
            assert_eq!(others.starts_with(bound), one == other, "{own} {others}");
        }
    });
}

#[test]
fn usernames_are_plain_identifiers_whatever_they_are_made_of() {
    let seen = std::cell::RefCell::new(BTreeSet::new());
    search(2, &(any_text(), any_text()), |(role, requester)| {
        let name = username(&role, &requester);
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        assert!(
            name.starts_with("kc_") && name.len() <= 63 && name.bytes().all(plain),
            "{name}"
        );
        assert!(seen.borrow_mut().insert(name));
    });
}

#[test]
fn lease_ids_and_names_have_one_spelling() {
    let id = "[a-zA-Z0-9_.-]{0,70}\\.[0-9a-fA-F]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}";
    search(
        8,
        &prop_oneof![2 => Strategy::boxed(id), 1 => any_text().boxed()],
        |text| {
            if let Ok(id) = text.parse::<LeaseId>() {
                assert_eq!(id.to_string(), text);
                assert!(is_name(&id.database));
            }
            if is_name(&text) {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
                assert!(
                    text.len() <= 64 && text.bytes().all(plain) && !text.starts_with(['.', '-'])
                );
                assert!(Requester::new(text).is_ok());
            }
        },
    );
}
