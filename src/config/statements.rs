//! Statements of a role: Vault's templates, and where a verifier may stand for a password.

use crate::login::Statements;

const KNOWN: [&str; 4] = ["name", "username", "password", "expiration"];
const PASSWORD: &str = "{{password}}";

/// What statements are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Creating a login with a password.
    Creation,
    /// Renewing or revoking it; its password is known to nobody by then.
    Upkeep,
}

/// What is wrong with statements: a problem and its remedy.
pub(super) type Fault = (String, &'static str);

/// Checks the statements of an array.
pub(super) fn each(texts: &[&str], purpose: Purpose) -> Result<Statements, Vec<Fault>> {
    let texts: Vec<&str> = texts
        .iter()
        .map(|text| text.trim().trim_end_matches(';').trim_end())
        .collect();
    checked(&texts, purpose).map(Statements::Each)
}

/// Checks one text with several statements.
pub(super) fn script(text: &str, purpose: Purpose) -> Result<Statements, Vec<Fault>> {
    checked(&[text.trim()], purpose).map(|texts| Statements::Script(texts.concat()))
}

fn checked(texts: &[&str], purpose: Purpose) -> Result<Vec<String>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut rendered = Vec::new();
    let mut used: Vec<&str> = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let which = match texts {
            [_] => String::new(),
            _ => format!("statement {}: ", index + 1),
        };
        if text.is_empty() {
            faults.push((format!("{which}is empty"), "take it out"));
        }
        let (text, found) = normalised(text);
        for (name, at) in found {
            match KNOWN.iter().find(|known| **known == name) {
                None => faults.push((
                    format!("{which}{{{{{name}}}}} is not known"),
                    "use {{name}}, {{username}}, {{password}} and {{expiration}}",
                )),
                Some(&"password") if purpose == Purpose::Upkeep => faults.push((
                    format!("{which}{PASSWORD} is not known after the login is created"),
                    "use {{name}}, {{username}} and {{expiration}}",
                )),
                Some(&"password") if !is_role_password(&text, at) => faults.push((
                    format!("{which}{PASSWORD} stands outside the PASSWORD clause of a role"),
                    "write it as PASSWORD '{{password}}' in CREATE ROLE or ALTER ROLE only: it is \
                     a SCRAM verifier, which works nowhere else",
                )),
                Some(known) => used.push(known),
            }
        }
        rendered.push(text);
    }
    if purpose == Purpose::Creation
        && faults.is_empty()
        && !used.iter().any(|name| ["name", "username"].contains(name))
    {
        faults.push((
            "no statement has {{name}} in it".to_owned(),
            r#"create the login with CREATE ROLE "{{name}}""#,
        ));
    }
    if purpose == Purpose::Creation && faults.is_empty() && !used.contains(&"password") {
        faults.push((
            "no statement has {{password}} in it".to_owned(),
            "create the login with LOGIN PASSWORD '{{password}}'",
        ));
    }
    if faults.is_empty() {
        Ok(rendered)
    } else {
        Err(faults)
    }
}

/// The text with `{{ name }}` written `{{name}}`, and each placeholder's name and place in it.
/// Braces around anything but a word are SQL's own (`'{{1,2},{3,4}}'`).
fn normalised(text: &str) -> (String, Vec<(String, usize)>) {
    let mut output = String::with_capacity(text.len());
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("{{") {
        let (before, from) = rest.split_at(at);
        output.push_str(before);
        let word = from[2..].split_once("}}").map(|(inner, _)| inner);
        let name = word.map(str::trim).filter(|name| {
            name.starts_with(|c: char| c.is_alphabetic() || c == '_')
                && name
                    .chars()
                    .all(|c| c.is_alphanumeric() || c == '_' || c == '-')
        });
        if let (Some(word), Some(name)) = (word, name) {
            found.push((name.to_owned(), output.len()));
            output.push_str("{{");
            output.push_str(name);
            output.push_str("}}");
            rest = &from[word.len() + 4..];
        } else {
            output.push('{');
            rest = &from[1..];
        }
    }
    output.push_str(rest);
    (output, found)
}

/// Whether the `{{password}}` at `at` is all of the literal after PASSWORD in a command that
/// creates or alters a role. (In a user mapping's options, too, `password '...'` can be written.)
fn is_role_password(text: &str, at: usize) -> bool {
    let (before, after) = (&text[..at], &text[at + PASSWORD.len()..]);
    let Some(before) = before.strip_suffix('\'').map(str::trim_end) else {
        return false;
    };
    if !after.starts_with('\'') || after.starts_with("''") {
        return false;
    }
    let command = before
        .rsplit(';')
        .next()
        .unwrap_or(before)
        .to_ascii_uppercase();
    let Some(command) = command.strip_suffix("PASSWORD") else {
        return false;
    };
    if !command.ends_with(|c: char| c.is_whitespace() || c == '"') {
        return false;
    }
    let words: Vec<&str> = command.split_whitespace().collect();
    let start = words.windows(2).rposition(|pair| {
        let verb = pair[0].trim_start_matches(|c: char| !c.is_alphanumeric());
        ["CREATE", "ALTER"].contains(&verb) && ["ROLE", "USER", "GROUP"].contains(&pair[1])
    });
    start.is_some_and(|start| {
        let clauses = &words[start + 2..];
        clauses.first() != Some(&"MAPPING") && !clauses.iter().any(|word| word.contains('('))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATE: &str = r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}'"#;

    #[test]
    fn vaults_statements_are_taken() {
        let block = "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname='shared') \
                     THEN CREATE ROLE shared; END IF; END $$;";
        let checked = each(
            &[block, CREATE, r#"GRANT shared TO "{{ name }}";;"#],
            Purpose::Creation,
        )
        .unwrap();
        assert_eq!(
            checked.texts().collect::<Vec<_>>(),
            [
                block.trim_end_matches(';'),
                CREATE,
                r#"GRANT shared TO "{{name}}""#
            ]
        );
        let text = format!("{block} {CREATE}; GRANT a TO \"{{{{username}}}}\";");
        assert_eq!(
            script(&text, Purpose::Creation),
            Ok(Statements::Script(text))
        );
    }

    #[test]
    fn a_verifier_is_a_password_in_a_roles_password_clause_only() {
        for right in [
            CREATE,
            r#"create user "{{name}}" encrypted password  '{{ password }}' valid until '{{expiration}}'"#,
            "CREATE ROLE \"{{name}}\"\n  LOGIN\n  PASSWORD\n  '{{password}}'",
            r#"CREATE ROLE "{{name}}"; ALTER ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}'"#,
            r#"DO $$BEGIN IF (true) THEN CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}'; END IF; END$$"#,
            r#"DO $$CREATE ROLE "{{name}}" PASSWORD'{{password}}'$$"#,
        ] {
            assert!(script(right, Purpose::Creation).is_ok(), "{right}");
        }
        for wrong in [
            r#"CREATE USER MAPPING FOR "{{name}}" SERVER s OPTIONS (user 'u', password '{{password}}')"#,
            r#"CREATE ROLE "{{name}}"; CREATE USER MAPPING FOR x SERVER s OPTIONS (password '{{password}}')"#,
            r"CREATE SERVER s OPTIONS (password '{{password}}', n '{{name}}')",
            r#"CREATE ROLE "{{name}}" PASSWORD 'x{{password}}'"#,
            r#"CREATE ROLE "{{name}}" PASSWORD '{{password}}''x'"#,
            r#"CREATE ROLE "{{name}}" PASSWORD '{{password}}x'"#,
            r#"CREATE ROLE "{{name}}" PASSWORD {{password}}"#,
            r#"CREATE ROLE "{{name}}" NOPASSWORD '{{password}}'"#,
            r"SELECT dblink('{{name}}', 'host=h password={{password}}')",
            r"DO $$ BEGIN EXECUTE 'CREATE ROLE {{name}} PASSWORD ''{{password}}'''; END $$",
            r"SELECT '{{name}}' AS PASSWORD '{{password}}'",
        ] {
            let faults = script(wrong, Purpose::Creation).unwrap_err();
            assert_eq!(faults.len(), 1, "{wrong}");
            assert!(
                faults[0].0.contains("outside the PASSWORD clause"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn faults_of_templates_are_told() {
        let problems = |texts: &[&str]| -> Vec<String> {
            each(texts, Purpose::Creation)
                .unwrap_err()
                .into_iter()
                .map(|(problem, _)| problem)
                .collect()
        };
        assert_eq!(
            problems(&[CREATE, ";", "GRANT {{role_name}} TO {{user}}"]),
            [
                "statement 2: is empty",
                "statement 3: {{role_name}} is not known",
                "statement 3: {{user}} is not known",
            ]
        );
        assert_eq!(
            problems(&["CREATE ROLE x PASSWORD '{{password}}'"]),
            ["no statement has {{name}} in it"]
        );
        assert_eq!(
            problems(&["CREATE ROLE {{name}}"]),
            ["no statement has {{password}} in it"]
        );
    }

    #[test]
    fn renewing_and_revoking_statements_know_no_password() {
        let revoke = r#"REVOKE ALL ON t FROM "{{ name }}"; SELECT '{{expiration}}'"#;
        assert_eq!(
            script(revoke, Purpose::Upkeep),
            Ok(Statements::Script(revoke.replace("{{ name }}", "{{name}}")))
        );
        assert!(each(&["SELECT audit()"], Purpose::Upkeep).is_ok());
        for wrong in [
            r#"ALTER ROLE "{{name}}" PASSWORD '{{password}}'"#,
            "SELECT {{user}}",
            "",
        ] {
            assert_eq!(
                each(&[wrong], Purpose::Upkeep).unwrap_err().len(),
                1,
                "{wrong}"
            );
        }
    }

    #[test]
    fn braces_of_sql_stay() {
        let sql = r"SELECT '{{1,2},{3,4}}'::int[], '{{}}', '{{ {{name}} }}', '{{'";
        let (text, found) = normalised(sql);
        assert_eq!(text, sql);
        assert_eq!(found.len(), 1);
        assert_eq!(&text[found[0].1..found[0].1 + 8], "{{name}}");
    }
}
