//! Durations as Vault and Go write them, in whole seconds.

/// Units and their seconds, largest first.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// What a duration looks like, for remedies.
pub(super) const EXAMPLES: &str = r#"write it like "90s", "15m", "1h" or "7d""#;

/// The seconds of `1h30m`, `90s`, `7d`; a number without a unit counts seconds, as in Vault.
/// Larger units come first and none comes twice. `None` for everything else, and for what does
/// not fit 64 bits.
pub(super) fn parse(text: &str) -> Option<u64> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok();
    }
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut seconds = 0_u64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = rest[..end].parse().ok()?;
        let letter = rest[end..].chars().next()?;
        let (_, unit) = units.find(|(name, _)| *name == letter)?;
        seconds = seconds.checked_add(count.checked_mul(*unit)?)?;
        rest = &rest[end + 1..];
    }
    (!text.is_empty()).then_some(seconds)
}

/// `5400` as `1h30m`.
pub(super) fn show(seconds: u64) -> String {
    if seconds == 0 {
        return "0s".to_owned();
    }
    let mut rest = seconds;
    let mut text = String::new();
    for (name, unit) in UNITS {
        if rest >= unit {
            text.push_str(&(rest / unit).to_string());
            text.push(name);
        }
        rest %= unit;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_seconds() {
        for (text, seconds) in [
            ("1h", 3_600),
            ("24h", 86_400),
            ("7d", 604_800),
            ("15m", 900),
            ("90s", 90),
            ("1h30m", 5_400),
            ("1d2h3m4s", 93_784),
            ("90", 90),
            ("0", 0),
            ("0s", 0),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Some(seconds), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_durations() {
        for text in [
            "",
            " ",
            "24x",
            "h",
            "1.5h",
            "-1h",
            "+1h",
            "1h ",
            " 1h",
            "1H",
            "1h1h",
            "1m1h",
            "1h30",
            "500ms",
            "1us",
            "1w",
            "1 h",
            "PT1H",
            "١h",
            "1ä",
            "18446744073709551616",
            "18446744073709551615m",
            "5124095576030431h31m",
            "18446744073709551615s1s",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn shown_durations_parse_again() {
        for seconds in [0, 1, 59, 60, 90, 3_600, 5_400, 86_400, 93_784, u64::MAX] {
            assert_eq!(parse(&show(seconds)), Some(seconds));
        }
        assert_eq!(show(5_400), "1h30m");
    }
}
