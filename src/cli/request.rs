//! `keycard request`: asks for a credential as a service would.

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::output::{Output, table};
use super::{Failure, print};
use crate::app::{self, AppError};
use crate::clock;
use crate::config::{self, Environment};
use crate::queue::Lane;
use crate::queue::amqp::{Settings, ask};
use crate::wire::{CREDENTIAL_REQUEST, ResultData, ResultEvent};

/// Tries of 10 s each.
const TRIES: u32 = 3;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The role to ask for.
    role: String,
    /// How long the credential shall live, such as 90s, 10m or 1h30m [default: the role's].
    #[arg(long, value_parser = config::duration)]
    ttl: Option<u64>,
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(super) async fn run(
    path: Option<&Path>,
    environment: &Environment,
    arguments: Arguments,
) -> Result<(), Failure> {
    let client = config::Client::load(path, environment)?;
    let user = client.uri.authority.userinfo.username.clone();
    let mut data = json!({ "role": arguments.role });
    if let Some(seconds) = arguments.ttl {
        data["ttl_seconds"] = seconds.into();
    }
    let command = json!({
        "specversion": "1.0",
        "id": clock::uuid_v7(),
        "source": format!("/keycard/request/{user}"),
        "type": CREDENTIAL_REQUEST,
        "time": clock::host_now(),
        "data": data,
    });
    let settings = Settings {
        uri: client.uri,
        password: app::reader(&client.password, None),
        ca_file: client.ca_file,
        // A client declares nothing, so nobody looks at these two.
        installation: user,
        prefetch: 1,
    };
    let answer = ask(
        &settings,
        Lane::Requests,
        command.to_string().as_bytes(),
        TRIES,
    )
    .await
    .map_err(AppError::from)?;
    let event = ResultEvent::from_json(&answer)
        .map_err(|error| Failure::Failed(format!("the answer cannot be read: {error}")))?;
    match (&event.data, arguments.output) {
        (ResultData::Denied(denied), _) => Err(Failure::Denied {
            code: denied.code.clone(),
            message: denied.message.clone(),
        }),
        (_, Output::Json) => {
            print(&event.to_json());
            Ok(())
        }
        (_, Output::Table) => {
            print(&table(&["FIELD", "VALUE"], &fields(&event)));
            Ok(())
        }
    }
}

/// The fields of an event's data, one a line; those of `secret` behind a dot.
fn fields(event: &ResultEvent) -> Vec<Vec<String>> {
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    let event = serde_json::to_value(event).unwrap_or_default();
    let Some(data) = event["data"].as_object() else {
        return vec![];
    };
    data.iter()
        .flat_map(|(key, value)| match value.as_object() {
            None => vec![vec![key.clone(), text(value)]],
            Some(inner) => inner
                .iter()
                .map(|(name, value)| vec![format!("{key}.{name}"), text(value)])
                .collect(),
        })
        .collect()
}
