//! What a site's configuration says.

use std::fmt::Write as _;

use super::{Site, StoreKind, Wishes};

impl Site {
    pub(super) fn configuration(&self, wishes: &Wishes) -> String {
        let mut text = format!(
            r#"
installation = "{name}"
operators = ["platform-ops"]

[databases.app]
connection_url = "postgresql://{{{{username}}}}:{{{{password}}}}@{host}:{port}/{dbname}"
username = "{admin}"
password = {{ env = "DB_ADMIN_PASSWORD" }}
allowed_roles = ["*"]

[roles.app-role]
database = "app"
requesters = {requesters:?}
{role}{queue}
[worker]
sweep_interval = "{sweep_interval}"
reconcile_interval = "{reconcile_interval}"
"#,
            name = self.name,
            host = self.postgres.host,
            port = self.postgres.port,
            dbname = self.dbname,
            admin = self.admin,
            requesters = wishes.requesters,
            role = self.role(&wishes.role),
            queue = self.queue_section(),
            sweep_interval = wishes.sweep_interval,
            reconcile_interval = wishes.reconcile_interval,
        );
        match &wishes.store {
            // The default, beside the configuration.
            StoreKind::Directory => {}
            StoreKind::Aws(_) => {
                let _ = write!(
                    text,
                    "[store]\nkind = \"aws-secrets-manager\"\nprefix = \"keycard\"\n"
                );
            }
        }
        text.push_str(&wishes.sections.replace("GROUP", &self.group));
        text
    }

    /// Groups and times, unless the test says otherwise.
    fn role(&self, wished: &str) -> String {
        let mut lines = String::new();
        for (key, value) in [
            ("default_ttl", "\"1h\"".to_owned()),
            ("max_ttl", "\"24h\"".to_owned()),
            ("min_ttl", "\"1s\"".to_owned()),
        ] {
            if !wished.contains(key) {
                let _ = writeln!(lines, "{key} = {value}");
            }
        }
        if !wished.contains("creation_statements") && !wished.contains("groups") {
            let _ = writeln!(lines, "groups = [\"{}\"]", self.group);
        }
        lines + &wished.replace("GROUP", &self.group) + "\n"
    }
}

/// The variables that go with it.
pub(super) fn environment(store: &StoreKind) -> Vec<(String, String)> {
    let mut variables = vec![
        ("DB_ADMIN_PASSWORD".to_owned(), "admin".to_owned()),
        ("BROKER_PASSWORD".to_owned(), "kc-worker".to_owned()),
    ];
    if let StoreKind::Aws(url) = store {
        for (key, value) in [
            ("AWS_ENDPOINT_URL_SECRETS_MANAGER", url.as_str()),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ] {
            variables.push((key.to_owned(), value.to_owned()));
        }
    }
    variables
}
