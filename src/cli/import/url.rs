//! Vault's `connection_url` as keycard takes it.

/// A URL, and what was changed in it.
pub(super) struct Url {
    pub(super) text: String,
    pub(super) notes: Vec<&'static str>,
}

/// Takes a password out of a URL, and makes keycard verify the server where libpq would not.
/// Whether it is usable is for the configuration to say, which refuses one with a password left.
pub(super) fn of_keycard(url: &str) -> Url {
    let mut notes = Vec::new();
    let mut text = url.to_owned();
    if let Some((scheme, rest)) = url.split_once("://")
        && let Some((user, place)) = rest.rsplit_once('@')
        && let Some((user, password)) = user.split_once(':')
        && password != "{{password}}"
    {
        notes.push("holds a password, which is left out");
        // An @ behind a ? may be part of either; nobody can tell.
        text = if rest[..rest.len() - place.len()].contains('?') {
            String::new()
        } else {
            format!("{scheme}://{user}:{{{{password}}}}@{place}")
        };
    }
    for lax in ["require", "verify-ca", "prefer", "allow"] {
        let lax = format!("sslmode={lax}");
        if text.contains(&lax) {
            notes.push("its sslmode becomes verify-full: keycard talks to no server that it has not verified");
            text = text.replace(&lax, "sslmode=verify-full");
        }
    }
    Url { text, notes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_kept() {
        for (given, kept) in [
            (
                "postgresql://{{username}}:{{password}}@h:5432/d?sslmode=disable",
                "postgresql://{{username}}:{{password}}@h:5432/d?sslmode=disable",
            ),
            (
                "postgres://admin:canary@h/d",
                "postgres://admin:{{password}}@h/d",
            ),
            (
                "postgres://admin:can@r/y:@h/d",
                "postgres://admin:{{password}}@h/d",
            ),
            ("postgres://admin:can?ary@h/d", ""),
            (
                "postgres://h/d?sslmode=require",
                "postgres://h/d?sslmode=verify-full",
            ),
            (
                "host=h user={{username}} dbname=d",
                "host=h user={{username}} dbname=d",
            ),
        ] {
            assert_eq!(of_keycard(given).text, kept, "{given}");
        }
    }
}
