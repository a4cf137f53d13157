//! What `vault read -format=json` has written, and what is usable of it.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::terms::{Fate, Kind, TERMS};
use crate::cli::Failure;
use crate::config;
use crate::lease::is_name;

/// One file.
pub(super) struct Source {
    pub(super) kind: Kind,
    /// Vault's answer does not hold it, so it is the file's, without `.json`.
    pub(super) name: String,
    /// The answer's `data`, that of `connection_details` included.
    data: Map<String, Value>,
}

/// What Vault gives up to which no lease lives longer, unless it was tuned.
const SYSTEM_TTL_SECONDS: u64 = 768 * 3_600;

impl Source {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let fail = |problem: &str| Failure::Usage(format!("{}: {problem}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| {
            fail(&format!(
                "cannot be read: {error}; name what `vault read -format=json` has written"
            ))
        })?;
        // serde_json's own messages repeat nothing of the text.
        let json: Value = serde_json::from_str(&text)
            .map_err(|error| fail(&format!("is not JSON: {error}; write `-format=json`")))?;
        let data = match json.get("data") {
            Some(data) => data.as_object(),
            None => json.as_object(),
        };
        let mut data = data
            .ok_or_else(|| fail("holds no object; write what `vault read -format=json` prints"))?
            .clone();
        let kind = kind(&data).ok_or_else(|| {
            fail("is neither of database/config, database/roles nor database/static-roles")
        })?;
        if let Some(Value::Object(details)) = data.remove("connection_details") {
            data.extend(details);
        }
        let name = path.file_stem().and_then(|stem| stem.to_str());
        let name = name.filter(|name| is_name(name)).ok_or_else(|| {
            fail("the file's name names the role or database, and cannot; use letters, digits, '_', '-' and '.', such as app-role.json")
        })?;
        Ok(Self {
            kind,
            name: name.to_owned(),
            data,
        })
    }

    /// How notes name it: as Vault does.
    pub(super) fn place(&self) -> String {
        format!("{}/{}", self.kind.as_str(), self.name)
    }

    /// A text that is not empty.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.data.get(key)?.as_str().filter(|text| !text.is_empty())
    }

    /// A list of texts; one text is taken apart at its commas, as Vault does.
    pub(super) fn texts(&self, key: &str) -> Vec<String> {
        match self.data.get(key) {
            Some(Value::Array(list)) => list
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            Some(Value::String(text)) => text
                .split(',')
                .map(|part| part.trim().to_owned())
                .filter(|part| !part.is_empty())
                .collect(),
            _ => vec![],
        }
    }

    /// A number, also one that is written as a text.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        let value = self.data.get(key)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    }

    /// Seconds of a duration, a number of them or `1h30m`. `Err` when it is no duration.
    pub(super) fn seconds(&self, key: &str) -> Result<u64, String> {
        let value = match self.data.get(key) {
            None | Some(Value::Null) => return Ok(0),
            Some(value) => value,
        };
        if let Some(seconds) = value.as_u64() {
            return Ok(seconds);
        }
        config::duration(value.as_str().unwrap_or_default())
            .map_err(|_| "is no duration in whole seconds".to_owned())
    }

    /// The same, with what Vault takes for 0.
    pub(super) fn ttl_seconds(&self, key: &str) -> Result<u64, String> {
        Ok(match self.seconds(key)? {
            0 => SYSTEM_TTL_SECONDS,
            seconds => seconds,
        })
    }

    /// Statements as one text: an element of Vault's list may hold several.
    pub(super) fn statements(&self, key: &str) -> Option<String> {
        let texts: Vec<String> = match self.data.get(key) {
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(text)) => vec![text.as_str()],
            _ => vec![],
        }
        .into_iter()
        .flat_map(decoded)
        .map(|text| {
            let text = text.trim().trim_end_matches(';').trim_end();
            let last = text.lines().last().unwrap_or_default();
            // Within a comment a semicolon ends nothing.
            let end = if last.contains("--") { "\n;" } else { ";" };
            format!("{text}{end}")
        })
        .filter(|text| text != ";")
        .collect();
        (!texts.is_empty()).then(|| texts.join("\n"))
    }

    /// What of it has no equivalent, or is not known.
    pub(super) fn losses(&self) -> Vec<String> {
        let place = self.place();
        if self.kind == Kind::StaticRole {
            return vec![format!(
                "{place}: static roles are not yet supported; it is left out"
            )];
        }
        self.data
            .iter()
            .filter(|(_, value)| is_set(value))
            .filter_map(|(key, _)| {
                let term = TERMS
                    .iter()
                    .find(|term| term.of == self.kind && term.key == key);
                match term {
                    None => Some(format!("{place}: {key}: keycard does not know it")),
                    Some(term) => match term.fate {
                        Fate::Key(_) | Fate::Moot => None,
                        Fate::ByHand(_) | Fate::None | Fate::NotYet => Some(format!(
                            "{place}: {key}: {}; {}",
                            term.keycard(),
                            term.about
                        )),
                    },
                }
            })
            .collect()
    }
}

fn kind(data: &Map<String, Value>) -> Option<Kind> {
    let has = |key| data.contains_key(key);
    if has("plugin_name") || has("connection_details") {
        Some(Kind::Connection)
    } else if has("rotation_statements") || has("last_vault_rotation") || has("username") {
        Some(Kind::StaticRole)
    } else if has("db_name") {
        Some(Kind::Role)
    } else {
        None
    }
}

/// Whether an option says anything: not empty, zero or off.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !["", "0", "0s"].contains(&text.as_str()),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// Vault takes statements in base64, too, of one text or of a JSON list. SQL has spaces in it.
fn decoded(text: &str) -> Vec<String> {
    let plain = if text.contains(char::is_whitespace) {
        None
    } else {
        STANDARD
            .decode(text)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
    };
    let plain = plain.unwrap_or_else(|| text.to_owned());
    serde_json::from_str(&plain).unwrap_or_else(|_| vec![plain])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_become_one_text_however_they_were_written() {
        let list = r#"["SELECT 1", "SELECT 2;"]"#;
        for (written, text) in [
            (Value::from("SELECT 1; SELECT 2;"), "SELECT 1; SELECT 2;"),
            (
                Value::from(vec!["SELECT 1", " SELECT 2 ;; "]),
                "SELECT 1;\nSELECT 2;",
            ),
            (Value::from(vec!["SELECT 1 -- one"]), "SELECT 1 -- one\n;"),
            (Value::from(list), "SELECT 1;\nSELECT 2;"),
            (
                Value::from(STANDARD.encode("SELECT 1; SELECT 2")),
                "SELECT 1; SELECT 2;",
            ),
            (
                Value::from(vec![STANDARD.encode(list)]),
                "SELECT 1;\nSELECT 2;",
            ),
            (Value::from("COMMIT"), "COMMIT;"),
        ] {
            let source = Source {
                kind: Kind::Role,
                name: "a".to_owned(),
                data: Map::from_iter([("s".to_owned(), written.clone())]),
            };
            assert_eq!(source.statements("s").as_deref(), Some(text), "{written}");
        }
    }
}
