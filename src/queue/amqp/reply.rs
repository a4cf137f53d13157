//! Direct replies, best effort, on a connection that may break: the broker closes it with 541 for
//! an address that only looks like one of its own, and a client can write whatever it likes there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::AMQPHardError;
use lapin::{Channel, Connection};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::connection::{Broker, hard_error, later, one_line};
use super::message::{self, short};
use super::publisher::close;
use crate::clock;
use crate::lease::Requester;
use crate::queue::{Outgoing, QueueError, ReplyTo};

/// Longest a caller waits.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Pause after a failure to connect.
const PAUSE: Duration = Duration::from_secs(5);

/// How long a requester whose address broke the connection gets no direct replies.
const PENALTY: Duration = Duration::from_mins(1);

/// Requesters remembered for that.
const PENALISED_MAX: usize = 1_000;

/// Sends direct replies, one at a time, so that the one that breaks the connection is known.
pub(super) struct Replier {
    broker: Arc<Broker>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<(Connection, Channel)>,
    /// No attempt to connect before this.
    not_before: Option<Instant>,
    penalised: HashMap<Requester, Instant>,
    is_closed: bool,
}

impl Replier {
    pub(super) fn new(broker: Arc<Broker>) -> Self {
        Self {
            broker,
            state: Mutex::default(),
        }
    }

    /// Sends the reply if that can be done soon. The result is in the events exchange anyway.
    ///
    /// Cancel-safe: a reply given up takes the connection with it, and the next one opens another.
    pub(super) async fn send(&self, to: &ReplyTo, message: &Outgoing) {
        let sending = async {
            let mut state = self.state.lock().await;
            self.send_alone(&mut state, to, message).await
        };
        match timeout(TIMEOUT, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(
                event.id = message.id,
                request.by = message.to.as_str(),
                error = error.to_string(),
                "a direct reply was not sent"
            ),
            Err(_) => debug!(
                event.id = message.id,
                request.by = message.to.as_str(),
                "a direct reply was not sent in time"
            ),
        }
    }

    async fn send_alone(
        &self,
        state: &mut State,
        ReplyTo(address): &ReplyTo,
        message: &Outgoing,
    ) -> Result<(), QueueError> {
        let error = |problem: &str| Err(later("reply", problem.to_owned()));
        let now = clock::monotonic_now();
        state.penalised.retain(|_, until| *until > now);
        if state.penalised.contains_key(&message.to) {
            return error("the requester's last reply address was a forgery");
        }
        let (connection, channel) = match state.open.take() {
            Some(open) if open.1.status().connected() => open,
            Some(_) | None if state.is_closed => return error("the connection has been closed"),
            Some(_) | None if state.not_before.is_some_and(|then| now < then) => {
                return error("the broker is out of reach");
            }
            Some(_) | None => {
                // Stays if this takes too long and is given up.
                state.not_before = Some(now + PAUSE);
                let open = self.open().await?;
                state.not_before = None;
                open
            }
        };
        match self.publish(&channel, address, message).await {
            Ok(()) => {
                state.open = Some((connection, channel));
                Ok(())
            }
            Err(error) => {
                if matches!(hard_error(&error), Some((AMQPHardError::INTERNALERROR, _))) {
                    warn!(
                        request.by = message.to.as_str(),
                        penalty_seconds = PENALTY.as_secs(),
                        "a requester's forged reply address has broken the connection for direct \
                         replies; it gets none for a while"
                    );
                    if state.penalised.len() < PENALISED_MAX {
                        state.penalised.insert(message.to.clone(), now + PENALTY);
                    }
                }
                Err(later("reply", one_line(&error)))
            }
        }
    }

    async fn open(&self) -> Result<(Connection, Channel), QueueError> {
        let connection = self.broker.open("worker reply").await?;
        let opening = async {
            let channel = connection.create_channel().await?;
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            Ok(channel)
        };
        let opened: lapin::Result<Channel> = opening.await;
        let channel = opened.map_err(|error| later("reply", one_line(&error)))?;
        Ok((connection, channel))
    }

    /// The confirmation says only that the address broke nothing.
    async fn publish(
        &self,
        channel: &Channel,
        address: &str,
        message: &Outgoing,
    ) -> lapin::Result<()> {
        let properties = message::result(self.broker.user(), message).with_delivery_mode(1);
        channel
            .basic_publish(
                "".into(),
                short(address),
                BasicPublishOptions::default(),
                &message.body,
                properties,
            )
            .await?
            .await
            .map(drop)
    }

    pub(super) async fn close(&self) {
        let mut state = self.state.lock().await;
        state.is_closed = true;
        if let Some((connection, channel)) = state.open.take() {
            drop(channel);
            close(&connection).await;
        }
    }
}
