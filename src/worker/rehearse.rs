//! Rehearsing a role for `keycard doctor`: a login is created, used and dropped, by the steps that
//! every lease takes.
//!
//! Logging in needs a commit, so this is a lease like any other: its row commits with its login, and
//! whatever becomes of the doctor, the login is refused after [`TTL`] and a worker drops it. Secret,
//! expiry event and answers are left out, as nobody is told of it. The closed lease and its rows of
//! the audit stay, as those of every credential do.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::HOLD;
use crate::check::{Check, DOCTOR};
use crate::clock;
use crate::lease::{
    Asking, Effect, Event, LeaseId, NewLease, Outcome, Report, Requester, RolePolicy, State, Then,
};
use crate::ledger::{Decided, Ledger, Rules, Step, Stepped, StoredLease, Subject};
use crate::login;

/// How long a rehearsed login lives if it is not given back. No longer than it is held: a worker
/// that finds it then ends it, and never delivers it to anybody.
const TTL: SignedDuration = SignedDuration::from_secs(20);
const _: () = assert!(TTL.as_secs() <= HOLD.as_secs().cast_signed());

/// The rules under which every role may be rehearsed, for as long as a rehearsal takes.
#[must_use]
pub fn rehearsal_rules(mut rules: Rules) -> Rules {
    // The doctor asks by the database's own clock, for one role after the other.
    rules.request_age_max = SignedDuration::from_hours(1);
    for role in rules.roles.values_mut() {
        role.requesters = BTreeSet::from([rehearser()]);
        role.policy = RolePolicy {
            default_ttl: TTL,
            max_ttl: TTL,
            min_ttl: SignedDuration::from_secs(1),
            leases_max: None,
        };
    }
    rules
}

#[expect(clippy::expect_used, reason = "the name is a constant that fits")]
fn rehearser() -> Requester {
    Requester::new(DOCTOR).expect("a short name of plain letters")
}

/// Creates a login of `role`, logs in and gives it back, in a ledger under [`rehearsal_rules`];
/// `now` is its clock.
pub async fn rehearse(ledger: &Ledger, role: &str, now: Timestamp) -> Check {
    let name = format!("roles.{role}");
    let given = match create(ledger, role, now).await {
        Ok(given) => given,
        Err(reason) => {
            let remedy = format!("mend the role's groups and statements ([{name}])");
            return Check::failure(name, format!("no login can be created: {reason}"), remedy);
        }
    };
    let GivenLogin { stored, password } = given;
    let username = &stored.lease.username;
    let used = ledger.log_in(username, &password).await;
    // Given back whether or not it could be used.
    let ended = end(ledger, &stored, now).await;
    match (used, ended) {
        (_, Err(reason)) => Check::failure(
            name,
            format!("the login {username} could not be dropped: {reason}"),
            "mend what is said there; a worker goes on trying, and the login is refused already or in some seconds",
        ),
        (Err(error), Ok(())) => Check::failure(
            name,
            format!("a login was created and cannot log in: {error}"),
            "mend pg_hba.conf, the database's CONNECT privilege, or what the role's statements make",
        ),
        (Ok(0), Ok(())) => Check::ok(name, "a login was created, used and dropped"),
        (Ok(relations), Ok(())) => Check::warning(
            name,
            format!(
                "a login was created, used and dropped; each has privileges of its own on tables ({relations} here), which slows its end and bloats their access lists"
            ),
            "give the role `groups` instead of statements that GRANT",
        ),
    }
}

/// A login that has to be given back.
struct GivenLogin {
    stored: StoredLease,
    password: secrecy::SecretString,
}

async fn create(ledger: &Ledger, role: &str, now: Timestamp) -> Result<GivenLogin, String> {
    let id = LeaseId {
        database: ledger.database().to_owned(),
        uuid: clock::uuid_v7(),
    };
    let subject = Subject::New(id.uuid);
    let event = Event::Request(NewLease {
        asking: asking(now),
        id,
        role: role.to_owned(),
        username: login::username(role, DOCTOR),
        ttl_seconds: None,
        live_leases: 0,
    });
    let decided = take(ledger, subject, event).await?;
    let denial = decided.decision.answers.iter().find_map(|answer| {
        if let Outcome::Denied(denial) = &answer.outcome {
            Some(denial.message.to_string())
        } else {
            None
        }
    });
    match (decided.stored, decided.password) {
        (Some(stored), Some(password)) => Ok(GivenLogin { stored, password }),
        _ => Err(denial.unwrap_or_else(|| decided.decision.reason.into_owned())),
    }
}

/// The doctor has the credential, which is all the delivery there is; then its lease ends as one
/// does that its requester revokes.
async fn end(ledger: &Ledger, given: &StoredLease, now: Timestamp) -> Result<(), String> {
    let subject = Subject::Known(given.lease.id.uuid);
    let mut event = Event::Delivered {
        attempt: given.lease.attempt,
    };
    let mut is_asked_for = false;
    loop {
        let decided = take(ledger, subject, event).await?;
        let Some(stored) = &decided.stored else {
            return Err("the ledger has lost its lease".to_owned());
        };
        let (terminated, left) = clear(ledger, &decided, stored).await?;
        let attempt = stored.lease.attempt;
        event = match (decided.decision.then, &stored.lease.state) {
            (Then::Report(Report::SessionsGone), _) => Event::SessionsGone {
                attempt,
                terminated,
                left: left.map(Into::into),
            },
            (Then::Report(Report::Cleared), _) => Event::Cleared { attempt },
            (_, State::Closed { .. }) => return Ok(()),
            (_, State::Active) if !is_asked_for => {
                is_asked_for = true;
                Event::Revoke(asking(now))
            }
            (
                _,
                State::Issuing | State::Active | State::Revoking { .. } | State::Dropped { .. },
            ) => {
                return Err(stored
                    .last_failure
                    .clone()
                    .unwrap_or_else(|| decided.decision.reason.into_owned()));
            }
        };
    }
}

/// The effects that concern the login: sessions that were terminated, and what keeps it.
async fn clear(
    ledger: &Ledger,
    decided: &Decided,
    stored: &StoredLease,
) -> Result<(u32, Option<String>), String> {
    let (mut terminated, mut left) = (0, None);
    for effect in &decided.decision.effects {
        match effect {
            Effect::TerminateSessions => {
                let ended = ledger.terminate_sessions(stored.login_oid).await;
                terminated = ended.map_err(|error| error.to_string())?;
            }
            Effect::ClearObjects => {
                let cleared = ledger.clear_objects(stored).await;
                left = cleared.map_err(|error| error.to_string())?;
            }
            // No secret was put, no expiry armed, and nobody waits for an answer.
            Effect::PutSecret
            | Effect::ArmExpiry
            | Effect::DeleteSecrets(_)
            | Effect::Answer
            | Effect::Publish(_) => {}
        }
    }
    Ok((terminated, left))
}

async fn take(ledger: &Ledger, subject: Subject, event: Event) -> Result<Decided, String> {
    let step = Step {
        asked: None,
        subject,
        event,
        secret: None,
    };
    match ledger.step(step).await.map_err(|error| error.to_string())? {
        Stepped::Decided(decided) => Ok(*decided),
        Stepped::Replayed(_) | Stepped::Reused(_) | Stepped::Ended(_) => {
            Err("the ledger took it for a command".to_owned())
        }
    }
}

fn asking(at: Timestamp) -> Asking {
    Asking {
        by: rehearser(),
        operator: false,
        at,
        expires_at: None,
    }
}
