//! What a delivery asks for, and who asks.

use super::carry::Context;
use super::lanes::{Settled, pause};
use super::{Worker, outage};
use crate::clock;
use crate::lease::{Asking, DenialCode, Event, LeaseId, NewLease, Requester};
use crate::ledger::{About, Asked, Kind, Refusal, Subject};
use crate::login;
use crate::metrics;
use crate::queue::{Delivery, Lane, Outgoing, Sender};
use crate::wire::{self, Accepts, Command, Expire, Refused, ResultEvent, Stamp};

impl Worker {
    /// Does what a delivery asks for.
    pub(super) async fn process(&self, delivery: &Delivery) -> Settled {
        match (delivery.lane, &delivery.sender) {
            (_, Sender::Nobody(reason)) => {
                self.reply_unauthenticated(delivery, reason).await;
                Settled::DeadLetter(format!("unauthenticated: {reason}"))
            }
            (Lane::Requests, Sender::Requester(by)) => {
                self.command(delivery, by, Accepts::Requests).await
            }
            (Lane::Leases, Sender::Requester(by)) => {
                self.command(delivery, by, Accepts::Leases).await
            }
            (Lane::Requests | Lane::Leases, Sender::Keycard) => Settled::DeadLetter(
                "unauthenticated: keycard's own user sends no commands".to_owned(),
            ),
            (Lane::Expiry, Sender::Keycard) => self.expiry(delivery).await,
            (Lane::Expiry, Sender::Requester(by)) => Settled::DeadLetter(format!(
                "unauthenticated: only keycard publishes expiry events, not {by}"
            )),
        }
    }

    async fn command(&self, delivery: &Delivery, by: &Requester, accepts: Accepts) -> Settled {
        let incoming = match wire::decode(accepts, &delivery.body) {
            Ok(incoming) => incoming,
            Err(refused) => return self.refuse(delivery, by, &refused).await,
        };
        let asking = Asking {
            by: by.clone(),
            operator: self.rules.operators.contains(by),
            at: incoming.time,
            expires_at: incoming.expires_at,
        };
        let (kind, reason, about) = match &incoming.command {
            Command::Request { role, .. } => (Kind::Request, None, About::role(role)),
            Command::Renew { lease_id, .. } => (Kind::Renew, None, About::lease(lease_id)),
            Command::Revoke { lease_id, reason } => {
                (Kind::Revoke, reason.clone(), About::lease(lease_id))
            }
        };
        let asked = Asked {
            requester: by.clone(),
            source: incoming.source.clone(),
            id: incoming.id.clone(),
            kind,
            digest: incoming.digest,
            correlation_id: delivery.correlation_id.clone(),
            traceparent: incoming.traceparent.clone(),
            reason,
        };
        let (database, subject, event) = match &incoming.command {
            Command::Request { role, ttl_seconds } => {
                // One answer for both, and neither reaches the role's database: nothing tells them
                // apart.
                let known = self.rules.roles.get(role);
                let Some(known) = known.filter(|known| known.requesters.contains(by)) else {
                    let refusal = Refusal {
                        asked: &asked,
                        about,
                        code: DenialCode::RoleNotAllowed,
                        message: "the role does not exist, or it does not name this requester in `requesters`",
                    };
                    return self.deny(delivery, &refusal).await;
                };
                let id = LeaseId {
                    database: known.database.clone(),
                    uuid: clock::uuid_v7(),
                };
                let subject = Subject::New(id.uuid);
                let new = NewLease {
                    asking,
                    id,
                    role: role.clone(),
                    username: login::username(role, by.as_str()),
                    ttl_seconds: *ttl_seconds,
                    live_leases: 0,
                };
                (&known.database, subject, Event::Request(new))
            }
            Command::Renew {
                lease_id,
                ttl_seconds,
            } => (
                &lease_id.database,
                Subject::Known(lease_id.uuid),
                Event::Renew {
                    asking,
                    ttl_seconds: *ttl_seconds,
                },
            ),
            Command::Revoke { lease_id, reason } => {
                tracing::info!(
                    request.id = incoming.id,
                    request.by = by.as_str(),
                    lease.id = %lease_id,
                    reason,
                    "revocation is asked for"
                );
                (
                    &lease_id.database,
                    Subject::Known(lease_id.uuid),
                    Event::Revoke(asking),
                )
            }
        };
        let Some(ledger) = self.ledgers.get(database) else {
            let refusal = Refusal {
                asked: &asked,
                about,
                code: DenialCode::LeaseUnknown,
                message: "no such lease, or it belongs to another requester",
            };
            return self.deny(delivery, &refusal).await;
        };
        let context = Context {
            ledger,
            asked: Some(&asked),
            reply_to: delivery.reply_to.as_ref(),
            expire: None,
        };
        self.enter_and_carry(delivery, context, subject, event)
            .await
    }

    async fn expiry(&self, delivery: &Delivery) -> Settled {
        let expire = match Expire::decode(&delivery.body) {
            Ok(expire) => expire,
            Err(refused) => {
                let code = refused.code.as_str();
                return Settled::DeadLetter(format!("{code}: {}", refused.message));
            }
        };
        let Some(ledger) = self.ledgers.get(&expire.lease_id.database) else {
            return Settled::DeadLetter(format!(
                "lease_unknown: the configuration has no database {:?}; the lease's login stays until its VALID UNTIL",
                expire.lease_id.database
            ));
        };
        let subject = Subject::Known(expire.lease_id.uuid);
        let event = Event::Wake {
            generation: Some(expire.generation),
        };
        let context = Context {
            ledger,
            asked: None,
            reply_to: None,
            expire: Some(&expire),
        };
        self.enter_and_carry(delivery, context, subject, event)
            .await
    }

    async fn enter_and_carry(
        &self,
        delivery: &Delivery,
        context: Context<'_>,
        subject: Subject,
        event: Event,
    ) -> Settled {
        let role = event.request().map(|new| new.role.clone());
        let place = self
            .bulkheads
            .enter(delivery.lane, context.ledger.database());
        let settled = match place.await {
            Some(_place) => self.carry(context, subject, event).await,
            None => Settled::Defer(pause(delivery.deferrals)),
        };
        if let (Some(role), Settled::Defer(_)) = (role, &settled) {
            metrics::deferred(&role);
        }
        settled
    }

    /// Answers a command that no ledger has to remember, once the audit has it. All of these are in
    /// the first database's, whichever the command is about: how long it takes tells nothing.
    async fn deny(&self, delivery: &Delivery, refusal: &Refusal<'_>) -> Settled {
        let Some(ledger) = self.ledgers.values().next() else {
            return Settled::Defer(pause(delivery.deferrals));
        };
        let Some(_place) = self.bulkheads.enter(delivery.lane, ledger.database()).await else {
            return Settled::Defer(pause(delivery.deferrals));
        };
        if let Err(error) = ledger.refuse(refusal).await {
            self.note(ledger.database(), &error);
            return Settled::Defer(pause(delivery.deferrals));
        }
        self.outages.over(&outage::database(ledger.database()));
        let asked = refusal.asked;
        let event =
            ResultEvent::denied(self.stamp(), asked.as_wire(), refusal.code, refusal.message);
        self.tell_sender(delivery, &asked.requester, &event, Settled::Ack)
            .await
    }

    /// A command that cannot be read is kept for people to look at, and answered if that can be.
    async fn refuse(&self, delivery: &Delivery, by: &Requester, refused: &Refused) -> Settled {
        let dead = Settled::DeadLetter(format!("{}: {}", refused.code.as_str(), refused.message));
        let Some(asked) = refused.asked(Some(by)) else {
            return dead;
        };
        let event = ResultEvent::denied(self.stamp(), asked, refused.code, refused.message.clone());
        self.tell_sender(delivery, by, &event, dead).await
    }

    async fn tell_sender(
        &self,
        delivery: &Delivery,
        by: &Requester,
        event: &ResultEvent,
        then: Settled,
    ) -> Settled {
        let message = Outgoing {
            to: by.clone(),
            id: event.id.clone(),
            kind: event.kind(),
            body: event.to_json().into_bytes(),
            correlation_id: delivery.correlation_id.clone(),
        };
        if let Err(error) = self.queue.publish(&message).await {
            tracing::warn!(
                request.id = event.correlationid,
                request.by = by.as_str(),
                %error,
                "a denial could not be published; its command comes back"
            );
            return Settled::Defer(pause(delivery.deferrals));
        }
        if let Some(to) = &delivery.reply_to {
            self.queue.reply(to, &message).await;
        }
        then
    }

    /// The one thing an unauthenticated client may hear, where it waits for a direct reply.
    async fn reply_unauthenticated(&self, delivery: &Delivery, reason: &str) {
        let Some(to) = &delivery.reply_to else {
            return;
        };
        let accepts = match delivery.lane {
            Lane::Requests => Accepts::Requests,
            Lane::Leases => Accepts::Leases,
            Lane::Expiry => return,
        };
        let read = wire::decode(accepts, &delivery.body);
        let named = match &read {
            Ok(incoming) => Some(incoming.asked(None)),
            Err(refused) => refused.asked(None),
        };
        let (Ok(nobody), Some(named)) = (Requester::new("nobody"), named) else {
            return;
        };
        let event = ResultEvent::denied(
            self.stamp(),
            named,
            DenialCode::Unauthenticated,
            format!("{reason}; set the message's user_id to the connection's user"),
        );
        let message = Outgoing {
            to: nobody,
            id: event.id.clone(),
            kind: event.kind(),
            body: event.to_json().into_bytes(),
            correlation_id: delivery.correlation_id.clone(),
        };
        self.queue.reply(to, &message).await;
    }

    fn stamp(&self) -> Stamp<'_> {
        Stamp {
            installation: &self.rules.installation,
            at: clock::host_now(),
        }
    }
}
