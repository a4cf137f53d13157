//! What travels beside a message's body: properties and headers, to and from AMQP.
//!
//! Headers of keycard's own (`x-keycard-*`) are believed only in messages that the broker has
//! found to be published by keycard's own user. A message that keycard publishes again gets fresh
//! headers: a copied `x-death` stops it for good on `RabbitMQ` up to 3.13, and `CC` and `BCC` would
//! send it elsewhere.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::message::Delivery as Received;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use uuid::Uuid;

use super::deaths::{self, Death, REJECTED, command_lane, deaths};
use super::topology::{DEAD_LETTERS, queue_of};
use crate::clock;
use crate::lease::Requester;
use crate::queue::{DeadLetter, Delivery, Lane, Outgoing, ReplyTo, Sender};

const REQUESTER: &str = "x-keycard-requester";
const NOBODY: &str = "x-keycard-nobody";
const LANE: &str = "x-keycard-lane";
const DEFERRALS: &str = "x-keycard-deferrals";
const REMAINING: &str = "x-keycard-remaining-ms";
const REPLY_TO: &str = "x-keycard-reply-to";
const REASON: &str = "x-keycard-reason";
const ORIGIN: &str = "x-keycard-origin";

const NO_USER: &str = "the message has no user_id";

/// The only reply addresses that cannot point into somebody else's queue.
const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to.";

pub(super) const CONTENT_TYPE: &str = "application/cloudevents+json";

/// The type of an expiry event.
const EXPIRE: &str = "keycard.lease.expire.v1";

/// Longest reason in a dead letter, in bytes.
const REASON_BYTES_MAX: usize = 512;

/// Longest string of AMQP's short kind, in bytes; lapin panics on a longer one.
const SHORT_STRING_BYTES_MAX: usize = 255;

/// What a received message says about itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) lane: Lane,
    pub(super) sender: Sender,
    pub(super) delivery_count: u32,
    pub(super) deferrals: u32,
    pub(super) correlation_id: Option<String>,
    pub(super) reply_to: Option<ReplyTo>,
    /// What a deferred message still has to wait.
    pub(super) remaining: Option<Duration>,
    /// It is a dead letter that nobody wants back: the broker has made room for newer ones.
    pub(super) is_swept_out: bool,
}

/// Reads a message that came out of the queue of `lane`.
pub(super) fn envelope(lane: Lane, own_user: &str, received: &Received) -> Envelope {
    let properties = &received.properties;
    let headers = properties.headers().as_ref();
    let is_own = is_from(properties, own_user);
    let own = if is_own { headers } else { None };
    let reply_to = own.and_then(|own| text(own, REPLY_TO));
    let reply_to = reply_to.or_else(|| properties.reply_to().as_ref().map(ToString::to_string));
    let from_expiry = |own| if lane == Lane::Expiry { own } else { None };
    // Only keycard publishes for the expiry queue, so what is there of `x-death` is the broker's.
    let deaths = deaths(from_expiry(headers));
    let letter = deaths.first().filter(|newest| newest.queue == DEAD_LETTERS);
    // A command that the broker itself had made a dead letter is still its sender's own.
    let requeued = letter
        .filter(|letter| letter.reason == REJECTED && !is_own)
        .and_then(|_| command_lane(&deaths));
    Envelope {
        lane: from_expiry(own)
            .and_then(origin_lane)
            .or(requeued)
            .unwrap_or(lane),
        sender: sender(requeued.unwrap_or(lane), own_user, properties),
        // The broker counts from the second delivery on; before that a header of this name is the
        // client's own.
        delivery_count: headers
            .filter(|_| received.redelivered)
            .map_or(0, |headers| number(headers, "x-delivery-count")),
        deferrals: own.map_or(0, |own| number(own, DEFERRALS)),
        correlation_id: correlation_id(properties),
        reply_to: reply_to.and_then(direct_reply),
        remaining: from_expiry(own)
            .map(|own| number::<u64>(own, REMAINING))
            .filter(|milliseconds| *milliseconds > 0)
            .map(Duration::from_millis),
        is_swept_out: letter.is_some_and(|letter| letter.reason != REJECTED),
    }
}

/// Reads a dead letter, without knowing keycard's own user.
///
/// A client's message gets there only out of a command's queue, which the broker notes: its headers
/// are worth nothing. Whatever has no such note was published by keycard.
pub(super) fn letter(received: Received) -> DeadLetter {
    let properties = &received.properties;
    let headers = properties.headers().as_ref();
    let deaths = deaths(headers);
    let newest = deaths.first();
    let (lane, sender) = match (command_lane(&deaths), properties.user_id()) {
        (Some(lane), Some(user)) => (Some(lane), requester(user.as_str())),
        (Some(lane), None) => (Some(lane), Sender::Nobody(NO_USER.to_owned())),
        // An expiry event says no lane.
        (None, _) => (
            headers
                .and_then(origin_lane)
                .or(newest.map(|_| Lane::Expiry)),
            author(headers),
        ),
    };
    let (id, reason, at) = match newest {
        None => (
            properties.message_id().as_ref().map(ToString::to_string),
            headers.and_then(|headers| text(headers, REASON)),
            properties.timestamp().and_then(deaths::timestamp),
        ),
        Some(newest) => (None, Some(newest.to_string()), newest.at),
    };
    DeadLetter {
        id: id.unwrap_or_else(|| made_up_id(&received, newest)),
        lane,
        sender,
        reason: reason.unwrap_or_default(),
        at,
        body: received.data,
    }
}

/// The id of a letter that keycard has not given one: the same whenever it is looked at, though the
/// broker counts that in its headers.
fn made_up_id(received: &Received, newest: Option<&Death>) -> String {
    const NAMESPACE: Uuid = Uuid::from_u128(0x4a0c_92f7_5f6e_4c39_9d0b_6a54_0f1e_83d2);
    let properties = &received.properties;
    let told = (
        properties.user_id(),
        properties.message_id(),
        properties.correlation_id(),
        properties.timestamp(),
        newest,
    );
    let namespace = Uuid::new_v5(&NAMESPACE, format!("{told:?}").as_bytes());
    Uuid::new_v5(&namespace, &received.data).to_string()
}

fn is_from(properties: &BasicProperties, user: &str) -> bool {
    properties
        .user_id()
        .as_ref()
        .is_some_and(|id| id.as_str() == user)
}

/// The broker has compared `user_id` with the user of the publishing connection.
fn sender(lane: Lane, own_user: &str, properties: &BasicProperties) -> Sender {
    match properties.user_id() {
        None => Sender::Nobody(NO_USER.to_owned()),
        Some(user) if user.as_str() == own_user => author(properties.headers().as_ref()),
        Some(user) if lane == Lane::Expiry => {
            Sender::Nobody(format!("user '{user}' has no business in this queue"))
        }
        Some(user) => requester(user.as_str()),
    }
}

/// For whom keycard has published a message.
fn author(headers: Option<&FieldTable>) -> Sender {
    if let Some(reason) = headers.and_then(|headers| text(headers, NOBODY)) {
        return Sender::Nobody(reason);
    }
    match headers.and_then(|headers| headers.inner().get(REQUESTER)) {
        None => Sender::Keycard,
        Some(value) => requester(&as_text(value).unwrap_or_default()),
    }
}

fn requester(name: &str) -> Sender {
    Requester::new(name).map_or_else(|error| Sender::Nobody(error.to_string()), Sender::Requester)
}

fn origin_lane(own: &FieldTable) -> Option<Lane> {
    Lane::from_name(&text(own, LANE)?)
}

/// The sender's own id for the message, unless no ledger could keep it: Postgres knows no text with
/// a NUL in it.
fn correlation_id(properties: &BasicProperties) -> Option<String> {
    let id = properties.correlation_id().as_ref()?.as_str();
    (!id.contains('\0')).then(|| id.to_owned())
}

/// Accepts an address that the broker made for one client's own channel, and no other.
fn direct_reply(address: String) -> Option<ReplyTo> {
    let is_safe = address.len() <= SHORT_STRING_BYTES_MAX
        && address
            .strip_prefix(DIRECT_REPLY)
            .is_some_and(|token| !token.is_empty());
    is_safe.then_some(ReplyTo(address))
}

/// A result.
pub(super) fn result(own_user: &str, message: &Outgoing) -> BasicProperties {
    let properties = persistent(own_user)
        .with_type(message.kind.into())
        .with_message_id(short(&message.id));
    correlated(properties, message.correlation_id.as_deref())
}

/// An expiry event.
pub(super) fn expiry(own_user: &str) -> BasicProperties {
    persistent(own_user).with_type(EXPIRE.into())
}

/// A deferred message, `remaining` of its delay left after the rung that it is published onto.
pub(super) fn deferred(
    own_user: &str,
    delivery: &Delivery,
    remaining: Option<Duration>,
) -> BasicProperties {
    let mut headers = authorship(delivery.lane, &delivery.sender);
    let deferrals = delivery.deferrals.saturating_add(1);
    headers.insert(DEFERRALS.into(), AMQPValue::LongLongInt(deferrals.into()));
    if let Some(ReplyTo(address)) = &delivery.reply_to {
        headers.insert(REPLY_TO.into(), string(address));
    }
    put_remaining(&mut headers, remaining);
    let properties = persistent(own_user).with_headers(headers);
    correlated(properties, delivery.correlation_id.as_deref())
}

/// A deferred message on to its next rung.
pub(super) fn next_hop(
    own_user: &str,
    received: &Received,
    remaining: Option<Duration>,
) -> BasicProperties {
    let mut headers = FieldTable::default();
    if let Some(previous) = received.properties.headers() {
        for name in [REQUESTER, NOBODY, LANE, DEFERRALS, REPLY_TO] {
            if let Some(value) = previous.inner().get(name) {
                headers.insert(name.into(), value.clone());
            }
        }
    }
    put_remaining(&mut headers, remaining);
    let properties = persistent(own_user).with_headers(headers);
    let correlation_id = received.properties.correlation_id().as_ref();
    correlated(properties, correlation_id.map(ShortString::as_str))
}

/// A dead letter.
pub(super) fn dead_letter(own_user: &str, delivery: &Delivery, reason: &str) -> BasicProperties {
    let mut headers = authorship(delivery.lane, &delivery.sender);
    let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
    headers.insert(REASON.into(), string(reason));
    headers.insert(ORIGIN.into(), string(queue_of(delivery.lane)));
    let properties = persistent(own_user)
        .with_message_id(short(&clock::uuid_v7().to_string()))
        .with_headers(headers);
    correlated(properties, delivery.correlation_id.as_deref())
}

fn authorship(lane: Lane, sender: &Sender) -> FieldTable {
    let mut headers = FieldTable::default();
    headers.insert(LANE.into(), string(lane.name()));
    match sender {
        Sender::Requester(requester) => {
            headers.insert(REQUESTER.into(), string(requester.as_str()));
        }
        // Without this it would come back as keycard's own.
        Sender::Nobody(reason) => {
            headers.insert(NOBODY.into(), string(reason));
        }
        Sender::Keycard => {}
    }
    headers
}

fn put_remaining(headers: &mut FieldTable, remaining: Option<Duration>) {
    if let Some(remaining) = remaining {
        let milliseconds = i64::try_from(remaining.as_millis()).unwrap_or(i64::MAX);
        headers.insert(REMAINING.into(), AMQPValue::LongLongInt(milliseconds));
    }
}

fn persistent(own_user: &str) -> BasicProperties {
    let seconds = u64::try_from(clock::host_now().as_second()).unwrap_or_default();
    BasicProperties::default()
        .with_content_type(CONTENT_TYPE.into())
        .with_delivery_mode(2)
        .with_timestamp(seconds)
        .with_user_id(short(own_user))
}

fn correlated(properties: BasicProperties, correlation_id: Option<&str>) -> BasicProperties {
    match correlation_id {
        Some(id) => properties.with_correlation_id(short(id)),
        None => properties,
    }
}

/// Cuts what does not fit: only a client's own correlation id can be that long, and AMQP lets it
/// be no longer on the way in.
pub(super) fn short(text: &str) -> ShortString {
    text[..text.floor_char_boundary(SHORT_STRING_BYTES_MAX)].into()
}

fn string(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

pub(super) fn text(headers: &FieldTable, name: &str) -> Option<String> {
    as_text(headers.inner().get(name)?)
}

fn as_text(value: &AMQPValue) -> Option<String> {
    let bytes = value.as_long_string()?.as_bytes();
    Some(std::str::from_utf8(bytes).ok()?.to_owned())
}

/// A whole number of whichever width the broker chose; 0 for anything else.
fn number<T: TryFrom<i64> + Default>(headers: &FieldTable, name: &str) -> T {
    let Some(value) = headers.inner().get(name) else {
        return T::default();
    };
    let wide = (value.as_long_long_int())
        .or_else(|| value.as_long_int().map(i64::from))
        .or_else(|| value.as_long_uint().map(i64::from))
        .or_else(|| value.as_short_int().map(i64::from))
        .or_else(|| value.as_short_uint().map(i64::from))
        .or_else(|| value.as_short_short_int().map(i64::from))
        .or_else(|| value.as_short_short_uint().map(i64::from));
    wide.and_then(|wide| T::try_from(wide).ok())
        .unwrap_or_default()
}
