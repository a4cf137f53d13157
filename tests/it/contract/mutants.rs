//! Commands with one field changed.

use keycard::wire;
use serde_json::{Value, json};

/// Every way in which one field of `example` can be wrong, and many in which it stays right.
pub(super) fn mutants(example: &Value) -> Vec<Value> {
    let mut mutants = vec![
        json!(null),
        json!([]),
        json!({}),
        json!([example]),
        json!("x"),
    ];
    for level in ["", "/data"] {
        let with = |change: &dyn Fn(&mut Value)| {
            let mut mutant = example.clone();
            change(mutant.pointer_mut(level).unwrap());
            mutant
        };
        for (name, original) in example.pointer(level).unwrap().as_object().unwrap() {
            mutants.push(with(&|object| {
                object.as_object_mut().unwrap().remove(name);
            }));
            mutants.push(with(&|object| {
                let object = object.as_object_mut().unwrap();
                let value = object.remove(name).unwrap();
                object.insert(name.to_uppercase(), value);
            }));
            let edited = original.as_str().map(edits).unwrap_or_default();
            for value in values().into_iter().chain(edited) {
                mutants.push(with(&|object| object[name] = value.clone()));
            }
        }
        for name in [
            "added",
            "",
            "ID",
            "data_base64",
            "lease-id",
            "ttlSeconds",
            "role",
            "lease_id",
            "ttl_seconds",
            "reason",
            "password",
            "subject",
            "expirytime",
            "$ref",
        ] {
            for value in [json!(null), json!("x"), json!(1)] {
                mutants.push(with(&|object| object[name] = value.clone()));
            }
        }
    }
    mutants
}

/// `text` with each character replaced, removed or doubled by another.
fn edits(text: &str) -> Vec<Value> {
    let chars: Vec<char> = text.chars().collect();
    let mut edits = Vec::new();
    for at in 0..=chars.len() {
        let (before, after) = chars.split_at(at);
        let before: String = before.iter().collect();
        let rest: String = after.iter().skip(1).collect();
        edits.push(json!(format!("{before}{rest}")));
        let after: String = after.iter().collect();
        for new in "01239afAFZz.:-+_/ \n\0é".chars() {
            edits.push(json!(format!("{before}{new}{rest}")));
            edits.push(json!(format!("{before}{new}{after}")));
        }
    }
    edits
}

fn values() -> Vec<Value> {
    let mut values = vec![
        json!(null),
        json!(true),
        json!([]),
        json!({}),
        json!(["1.0"]),
        json!({"role": "orders-app"}),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(-0.0),
        json!(3600.0),
        json!(1e3),
        json!(9_007_199_254_740_991_i64),
        json!(9_007_199_254_740_991.0),
        json!(9_007_199_254_740_992_i64),
        json!(9_007_199_254_740_992.0),
        json!(-9_007_199_254_740_991_i64),
        json!(-9_007_199_254_740_992_i64),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e300),
        json!(5e-324),
    ];
    for unit in ["a", "é", "😀", "e\u{301}"] {
        for length in [
            0, 1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513,
        ] {
            values.push(json!(unit.repeat(length)));
        }
    }
    let suffix = ".01890a5d-ac96-774b-bcce-b302099a8057";
    for length in [0, 1, 63, 64, 65] {
        values.push(json!(format!("{}{suffix}", "d".repeat(length))));
    }
    for control in (0..=0xa0).chain([0xad, 0x2028, 0x202e, 0xfeff, 0xfffe, 0x0010_ffff]) {
        let control = char::from_u32(control).unwrap();
        values.push(json!(control.to_string()));
        values.push(json!(format!("a{control}b")));
        values.push(json!(format!("a{control}")));
    }
    values.extend(TEXTS.map(|text| json!(text)));
    values.extend(wire::TYPES.map(|kind| json!(kind)));
    values
}

const TEXTS: [&str; 48] = [
    "1.0",
    "1",
    "1.0.0",
    "application/json",
    "APPLICATION/JSON",
    "application/json; charset=utf-8",
    "keycard.lease.renew.v2",
    "role' OR 1=1; --",
    "../../etc",
    ".",
    "..",
    "-a",
    "_",
    "9",
    "a/b",
    "％",
    "٣",
    "${jndi:x}",
    "app-db.01890a5d-ac96-774b-bcce-b302099a8057",
    "app.db.01890A5D-ac96-774b-bcce-b302099a8057",
    "app-db.01890a5dac96774bbcceb302099a8057",
    "app-db.{01890a5d-ac96-774b-bcce-b302099a8057}",
    "app-db.urn:uuid:01890a5d-ac96-774b-bcce-b302099a8057",
    "app-db.00000000-0000-0000-0000-000000000000",
    "app-db..01890a5d-ac96-774b-bcce-b302099a8057",
    "01890a5d-ac96-774b-bcce-b302099a8057",
    "2026-01-31T12:00:00Z",
    "2026-01-31t12:00:00z",
    "2026-01-31 12:00:00Z",
    "2026-01-31T12:00:00",
    "2026-01-31T12:00Z",
    "20260131T120000Z",
    "2026-W05-6T12:00:00Z",
    "2026-031T12:00:00Z",
    "2026-01-31T12:00:00.123456789Z",
    "2026-01-31T12:00:00.1234567890Z",
    "2026-01-31T12:00:00.Z",
    "2026-01-31T23:59:60Z",
    "2016-12-31T23:59:60Z",
    "2026-01-31T24:00:00Z",
    "2024-02-29T00:00:00Z",
    "2100-02-29T00:00:00Z",
    "2026-04-31T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "9998-12-31T23:59:59.999999999-23:59",
    "9999-12-31T23:59:59Z",
    "2026-01-31T12:00:00-00:00",
];
