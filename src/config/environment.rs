//! The process environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// What overriding variables begin with.
const PREFIX: &str = "KEYCARD_";

/// The environment as it was when keycard started. It never changes afterwards.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The environment of this process.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one reading site")]
    pub fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// Where the crash matrix leaves its orders for [`crate::injection`]; nowhere in release builds.
    #[must_use]
    pub fn fault_orders(&self) -> Option<PathBuf> {
        self.text("CRASH_MATRIX_ORDERS")
            .filter(|_| cfg!(debug_assertions))
            .map(PathBuf::from)
    }

    /// The variables that may override a key: name, name in upper case, value.
    pub(super) fn overrides(&self) -> impl Iterator<Item = (String, String, &OsString)> {
        self.0.iter().filter_map(|(name, value)| {
            let name = name.to_string_lossy().into_owned();
            let upper = name.to_ascii_uppercase();
            let is_override = !is_service_link(upper.strip_prefix(PREFIX)?);
            is_override.then_some((name, upper, value))
        })
    }

    /// A variable's value, if it is UTF-8.
    pub(crate) fn text(&self, variable: &str) -> Option<&str> {
        self.0.get(&OsString::from(variable))?.to_str()
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<T: IntoIterator<Item = (OsString, OsString)>>(variables: T) -> Self {
        Self(variables.into_iter().collect())
    }
}

/// The variable that overrides a key: `KEYCARD_` and the names of the key's path in upper case,
/// `__` between them, `_` for what no variable's name can hold.
pub(super) fn variable<'a>(path: impl Iterator<Item = &'a str>) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    let names: Vec<String> = path.map(|name| name.chars().map(plain).collect()).collect();
    format!("{PREFIX}{}", names.join("__"))
}

/// Shows no value, as many are secret.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Whether Kubernetes sets such a variable for a Service whose name begins with `keycard` (like
/// `KEYCARD_SERVICE_HOST`, `KEYCARD_METRICS_PORT_9090_TCP_ADDR`). No key looks like that: all but
/// two top-level ones have `__` in their variables.
fn is_service_link(rest: &str) -> bool {
    let name = format!("_{rest}");
    let numbered = || {
        name.split("_PORT_")
            .skip(1)
            .any(|end| end.starts_with(|c: char| c.is_ascii_digit()))
    };
    !rest.contains("__")
        && (name.ends_with("_SERVICE_HOST")
            || name.contains("_SERVICE_PORT_")
            || name.ends_with("_PORT")
            || numbered())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_kubernetes_services_are_left_alone() {
        for name in [
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_METRICS",
            "PORT",
            "PORT_9090_TCP",
            "PORT_9090_TCP_ADDR",
            "METRICS_SERVICE_HOST",
            "METRICS_PORT_9090_UDP_PROTO",
        ] {
            assert!(is_service_link(name), "{name}");
        }
        for name in ["QUEUE_URL", "QUEUE__PORT", "PORT_NAME", "HOST"] {
            assert!(!is_service_link(name), "{name}");
        }
    }

    #[test]
    fn the_environment_shows_no_value() {
        let environment: Environment = [("A".into(), "canary".into())].into_iter().collect();
        assert_eq!(format!("{environment:?}"), r#"{"A"}"#);
    }
}
