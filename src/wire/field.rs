//! What the fields of commands and expiry events may hold. The schemas in events/ say the same.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::json::shown;
use crate::lease::{LeaseId, Requester, is_name};

/// What a field holds: how it is read, and the words for it.
pub(super) struct Shape<T> {
    /// Completes "send ...".
    expected: &'static str,
    read: fn(&Value) -> Option<T>,
}

pub(super) const TEXT: Shape<String> = Shape {
    expected: "a string of 1 to 256 characters without control characters",
    read: |value| text(value, 1, 256),
};

pub(super) const REASON: Shape<String> = Shape {
    expected: "a string of at most 256 characters without control characters",
    read: |value| text(value, 0, 256),
};

pub(super) const TRACE_STATE: Shape<String> = Shape {
    expected: "a string of at most 512 characters without control characters",
    read: |value| text(value, 0, 512),
};

pub(super) const SPEC_VERSION: Shape<()> = Shape {
    expected: "\"1.0\"",
    read: |value| (value == "1.0").then_some(()),
};

pub(super) const CONTENT_TYPE: Shape<()> = Shape {
    expected: "\"application/json\"",
    read: |value| (value == "application/json").then_some(()),
};

pub(super) const TIME: Shape<Timestamp> = Shape {
    expected: "an RFC 3339 date-time such as 2026-01-31T12:00:00Z",
    read: |value| value.as_str().and_then(timestamp),
};

pub(super) const ROLE: Shape<String> = Shape {
    expected: "a role's name: 1 to 64 of A-Z a-z 0-9 _ . -, not beginning with . or -",
    read: |value| {
        value
            .as_str()
            .filter(|name| is_name(name))
            .map(str::to_owned)
    },
};

pub(super) const LEASE_ID: Shape<LeaseId> = Shape {
    expected: "a lease id as keycard wrote it, like app-db.01890a5d-ac96-774b-bcce-b302099a8057",
    read: |value| value.as_str()?.parse().ok(),
};

pub(super) const SECONDS: Shape<i64> = Shape {
    expected: "a whole number of seconds, at most 2^53-1 either way",
    read: whole_number,
};

pub(super) const GENERATION: Shape<u32> = Shape {
    expected: "a whole number from 1 to 2^32-1",
    read: |value| u32::try_from(whole_number(value)?).ok().filter(|&n| n > 0),
};

pub(super) const REQUESTER: Shape<Requester> = Shape {
    expected: "a requester's name",
    read: |value| Requester::new(value.as_str()?).ok(),
};

pub(super) const LOCATORS: Shape<Vec<String>> = Shape {
    expected: "an array of strings of 1 to 512 characters without control characters",
    read: |value| {
        let locators = value.as_array()?.iter();
        locators.map(|locator| text(locator, 1, 512)).collect()
    },
};

/// The fields of one JSON object.
pub(super) struct Fields<'a> {
    /// Stands before a field's name in messages.
    prefix: &'static str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The attributes of the envelope.
    pub(super) fn of_envelope(map: &'a Map<String, Value>) -> Self {
        Self { prefix: "", map }
    }

    /// The fields of the envelope's `data`.
    pub(super) fn of_data(envelope: &'a Map<String, Value>) -> Result<Self, String> {
        match envelope.get("data") {
            Some(Value::Object(map)) => Ok(Self {
                prefix: "data.",
                map,
            }),
            Some(_) => Err("`data` does not fit; send a JSON object".to_owned()),
            None => Err("`data` is missing; send a JSON object".to_owned()),
        }
    }

    /// Refuses every field but these.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), String> {
        match self.map.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(format!(
                "`{}{}` is not known; leave it out, as only these are: {}",
                self.prefix,
                shown(name),
                known.join(", ")
            )),
        }
    }

    /// A field that must be there.
    pub(super) fn required<T>(&self, name: &str, shape: &Shape<T>) -> Result<T, String> {
        self.optional(name, shape)?
            .ok_or_else(|| self.problem(name, "is missing", shape))
    }

    /// A field that may be absent. `null` means absent too, as `CloudEvents`' JSON format has it.
    pub(super) fn optional<T>(&self, name: &str, shape: &Shape<T>) -> Result<Option<T>, String> {
        match self.map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => (shape.read)(value)
                .map(Some)
                .ok_or_else(|| self.problem(name, "does not fit", shape)),
        }
    }

    fn problem<T>(&self, name: &str, problem: &str, shape: &Shape<T>) -> String {
        format!("`{}{name}` {problem}; send {}", self.prefix, shape.expected)
    }
}

fn text(value: &Value, chars_min: usize, chars_max: usize) -> Option<String> {
    let text = value.as_str()?;
    let fits = (chars_min..=chars_max).contains(&text.chars().count())
        && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}

/// An integer as JSON Schema understands it: `3600.0` is one. Beyond 2^53-1 not every reader of
/// JSON sees the same number.
fn whole_number(value: &Value) -> Option<i64> {
    const MAX: i64 = (1 << 53) - 1;
    let number = match (value.as_i64(), value.as_f64()) {
        (Some(number), _) => number,
        (None, Some(number)) if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 => {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "it is whole and below 2^53"
            )]
            let number = number as i64;
            number
        }
        (None, _) => return None,
    };
    (-MAX..=MAX).contains(&number).then_some(number)
}

/// A time in the one shape that every common reader of RFC 3339 takes: capital `T` and `Z`, at
/// most nine decimals, no leap second, years that [`Timestamp`] holds with any offset.
fn timestamp(text: &str) -> Option<Timestamp> {
    let (clock, rest) = text.split_at_checked(19)?;
    let zone = match rest.strip_prefix('.') {
        None => rest,
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if !(1..=9).contains(&(fraction.len() - zone.len())) {
                return None;
            }
            zone
        }
    };
    let fits = is_shaped(clock, b"0000-00-00T00:00:00")
        && ("0001"..="9998").contains(&&clock[..4])
        && &clock[11..13] <= "23"
        && &clock[14..16] <= "59"
        && &clock[17..] <= "59"
        && (zone == "Z"
            || (is_shaped(zone, b"+00:00") || is_shaped(zone, b"-00:00"))
                && &zone[1..3] <= "23"
                && &zone[4..] <= "59");
    fits.then(|| text.parse().ok()).flatten()
}

/// Whether `text` is `shape` with any digits for its zeros.
fn is_shaped(text: &str, shape: &[u8]) -> bool {
    text.len() == shape.len()
        && text.bytes().zip(shape).all(|(byte, &shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            _ => byte == shape,
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_have_one_shape() {
        for (text, same) in [
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
            ("2026-01-31T12:00:00+00:00", "2026-01-31T12:00:00Z"),
            ("2026-01-31T12:00:00-00:00", "2026-01-31T12:00:00Z"),
            ("2026-01-31T12:00:00.5+02:00", "2026-01-31T10:00:00.5Z"),
            (
                "2024-02-29T00:00:00.123456789Z",
                "2024-02-29T00:00:00.123456789Z",
            ),
            (
                "9998-12-31T23:59:59.999999999-23:59",
                "9999-01-01T23:58:59.999999999Z",
            ),
            ("0001-01-01T00:00:00+23:59", "0000-12-31T00:01:00Z"),
        ] {
            let time = timestamp(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(time, same.parse().unwrap());
        }
        for wrong in [
            "",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00Z",
            "2026-01-31 12:00:00Z",
            "2026-01-31t12:00:00Z",
            "2026-01-31T12:00:00z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00.1234567890Z",
            "2026-01-31T12:00:00,5Z",
            "2026-01-31T12:00:60Z",
            "2026-01-31T24:00:00Z",
            "2026-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-01-31T12:00:00+24:00",
            "2026-01-31T12:00:00+02",
            "2026-01-31T12:00:00+0200",
            "2026-01-31T12:00:00+02:00[Europe/Berlin]",
            "0000-01-01T00:00:00Z",
            "9999-01-01T00:00:00Z",
            "+002026-01-31T12:00:00Z",
            "2026-01-31T12:00:00Z\n",
            "２026-01-31T12:00:00Z",
        ] {
            assert_eq!(timestamp(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn whole_numbers_may_have_a_point() {
        for (value, number) in [
            (json!(3600), 3600),
            (json!(3600.0), 3600),
            (json!(-0.0), 0),
            (json!(1e3), 1000),
            (json!(9_007_199_254_740_991_i64), 9_007_199_254_740_991),
            (json!(-9_007_199_254_740_991.0), -9_007_199_254_740_991),
        ] {
            assert_eq!(whole_number(&value), Some(number));
        }
        for wrong in [
            json!(0.5),
            json!(9_007_199_254_740_992_i64),
            json!(-9_007_199_254_740_992.0),
            json!(u64::MAX),
            json!(1e300),
            json!("3600"),
            json!(true),
            json!([1]),
        ] {
            assert_eq!(whole_number(&wrong), None, "{wrong}");
        }
    }
}
