//! Random input, and a kept corpus of it, for what reads texts that others wrote.
//!
//! tests/corpus/ holds named cases, each replayed before anything random: what once failed, and what
//! a random search would hardly find. A failure prints the smallest input that it could find; kept
//! under a name, that is the next case. `PROPTEST_CASES` says how long to search (256 is a unit of
//! that, not a number of inputs) and `PROPTEST_RNG_SEED` where to begin.

mod configuration;
mod names;
mod wire;

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// The kept cases of one target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let entries = fs::read_dir(folder.join(target)).unwrap();
    let cases: Vec<Vec<u8>> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            fs::read(path).unwrap()
        })
        .collect();
    assert!(!cases.is_empty(), "{target}");
    cases
}

/// Looks for an input on which `check` panics: `weight` times as many as proptest would try.
fn search<S: Strategy>(weight: u32, strategy: &S, check: impl Fn(S::Value)) {
    let usual = Config::default();
    let config = Config {
        cases: usual.cases.saturating_mul(weight),
        failure_persistence: None,
        ..usual
    };
    let found = TestRunner::new(config).run(strategy, |input| {
        check(input);
        Ok(())
    });
    if let Err(failure) = found {
        panic!("{failure}");
    }
}

/// One of these texts, changed in a few places by what `pieces` are, or cut, or doubled.
fn edited(texts: Vec<Vec<u8>>, pieces: Vec<&'static str>) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        3 => proptest::sample::select(pieces).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..4),
    ];
    let edit = (any::<prop::sample::Index>(), 0_usize..12, piece);
    let edits = proptest::collection::vec(edit, 1..6);
    (proptest::sample::select(texts), edits).prop_map(|(mut text, edits)| {
        for (at, length, piece) in edits {
            let at = at.index(text.len() + 1);
            let end = text.len().min(at + length);
            text.splice(at..end, piece);
        }
        text
    })
}

/// Texts of all kinds of characters, those that steer, combine and separate among them.
fn any_text() -> impl Strategy<Value = String> {
    let character = prop_oneof![
        4 => any::<char>(),
        4 => proptest::char::range(' ', '~'),
        1 => proptest::char::range('\0', '\u{a0}'),
        1 => proptest::sample::select(vec!['\u{202e}', '\u{2028}', '\u{feff}', '\u{301}', '\u{e000}', '\u{10ffff}']),
    ];
    let length = prop_oneof![4 => 0_usize..12, 2 => 0_usize..140, 1 => 250_usize..260];
    length.prop_flat_map(move |length| {
        proptest::collection::vec(character.clone(), length)
            .prop_map(|characters| characters.into_iter().collect())
    })
}
