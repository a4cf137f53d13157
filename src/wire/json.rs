//! JSON without ambiguity: a key that occurs twice in one object is an error.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::Serialize;
use serde_json::{Map, Value};

/// Parses one JSON document. `serde_json` limits its depth to 128.
pub(super) fn parse(body: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice::<Unambiguous>(body).map(|parsed| parsed.0)
}

/// Writes a value of the wire's own types.
#[expect(
    clippy::expect_used,
    reason = "strings, numbers and string keys always have a JSON form"
)]
pub(super) fn write(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("wire types have a JSON form")
}

/// At most 64 characters of a sender's text, escaped, for a message.
pub(super) fn shown(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 64;
    let mut shown: String = text
        .chars()
        .take(SHOWN_CHARS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}

/// A JSON value in which no object has a key twice.
struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Self)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unambiguous(value)) = access.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, Unambiguous(value))) = access.next_entry::<String, _>()? {
            if map.contains_key(&key) {
                let key = shown(&key);
                return Err(A::Error::custom(format_args!("`{key}` occurs twice")));
            }
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_parsed_is_what_was_written() {
        let text = r#"{"a":[null,true,-1,1.5,18446744073709551615,"\u0000é"],"b":{}}"#;
        assert_eq!(
            parse(text.as_bytes()).unwrap(),
            serde_json::from_str::<Value>(text).unwrap()
        );
    }

    #[test]
    fn no_key_occurs_twice_at_any_level() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"[{"b":{"a":1,"a":2}}]"#,
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("`a` occurs twice"), "{error}");
        }
    }

    #[test]
    fn what_is_no_json_document_is_refused() {
        let deep = "[".repeat(100_000);
        for body in [
            &b""[..],
            b"{",
            b"{}{}",
            b"\xef\xbb\xbf{}",
            b"\"\xff\"",
            br#""\ud800""#,
            b"NaN",
            b"1e400",
            deep.as_bytes(),
        ] {
            assert!(parse(body).is_err());
        }
    }

    #[test]
    fn hostile_text_is_cut_and_escaped() {
        assert_eq!(shown("a\n\u{1b}[2J\u{202e}\""), r#"a\n\u{1b}[2J\u{202e}\""#);
        assert_eq!(shown(&"é".repeat(64)), "é".repeat(64));
        assert_eq!(shown(&"x".repeat(1000)), format!("{}...", "x".repeat(64)));
    }
}
