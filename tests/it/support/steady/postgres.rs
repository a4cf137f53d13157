//! In Postgres: `keycard.send`, and `keycard.results` from the last position on.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Config, Error, NoTls};

use super::{CONFIRM_TIMEOUT, Command, Ear, RECONNECT_PAUSE};

/// How often it looks for results.
const LOOK: Duration = Duration::from_millis(50);

async fn connected(config: &Config) -> Result<Client, Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

pub(super) async fn listen(config: Config, ear: Ear) {
    let mut after = 0;
    loop {
        // An error means another connection, from where it was.
        let _ = listen_once(&config, &ear, &mut after).await;
        sleep(RECONNECT_PAUSE).await;
    }
}

async fn listen_once(config: &Config, ear: &Ear, after: &mut i64) -> Result<(), Error> {
    let client = connected(config).await?;
    loop {
        let next = "SELECT position, event FROM keycard.results($1)";
        for row in client.query(next, &[after]).await? {
            let event = serde_json::from_str(row.get(1)).unwrap();
            ear.heard.lock().unwrap().push(event);
            *after = row.get(0);
        }
        ear.listening.send_replace(true);
        sleep(LOOK).await;
    }
}

pub(super) async fn publish(config: Config, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut unconfirmed = None;
    loop {
        // An error means another connection; what was not confirmed is sent again.
        let _ = publish_once(&config, &mut commands, &mut unconfirmed).await;
        sleep(RECONNECT_PAUSE).await;
    }
}

async fn publish_once(
    config: &Config,
    commands: &mut mpsc::UnboundedReceiver<Command>,
    unconfirmed: &mut Option<Command>,
) -> Result<(), Error> {
    let client = connected(config).await?;
    loop {
        if unconfirmed.is_none() {
            *unconfirmed = commands.recv().await;
        }
        let Some(command) = unconfirmed else {
            return Ok(());
        };
        let confirmed = timeout(CONFIRM_TIMEOUT, async {
            let send = "SELECT keycard.send($1, $2::text)";
            client
                .query_one(send, &[&command.lane, &command.body])
                .await
        });
        match confirmed.await {
            Ok(Ok(_)) => *unconfirmed = None,
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        }
    }
}
