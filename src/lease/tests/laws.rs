//! Every state, every event, at every kind of time: no panic, and laws that no decision breaks.

mod space;

use super::super::{Difference, Effect, LoginChange, Report, Secrets, steps};
use super::audit::audit_laws;
use super::*;
use space::{events, leases, nows, policies};

fn rank(state: &State) -> u8 {
    match state {
        State::Issuing => 0,
        State::Active => 1,
        State::Revoking { .. } => 2,
        State::Dropped { .. } => 3,
        State::Closed { .. } => 4,
    }
}

#[test]
fn every_decision_obeys_the_laws() {
    let (leases, events) = (leases(), events());
    for policy in &policies() {
        for &now in &nows() {
            for event in &events {
                let decision = decide(None, event, now, policy);
                common_laws(&decision, event);
                unknown_laws(&decision, event);
                audit_laws(None, &decision);
                for lease in &leases {
                    let decision = decide(Some(lease), event, now, policy);
                    common_laws(&decision, event);
                    lease_laws(lease, &decision, event, now);
                    if let Some(next) = &decision.next {
                        login_laws(lease, next, &decision, event, now);
                    } else {
                        assert_eq!(decision.login, None, "{lease:?} {event:?} {decision:?}");
                    }
                    answer_laws(lease, &decision, now);
                    audit_laws(Some(lease), &decision);
                    failures_end(lease, &decision, now, policy);
                }
            }
        }
    }
}

#[test]
fn frozen_revocations_take_nothing_away() {
    let frozen = policies().into_iter().map(|policy| Policy {
        frozen: true,
        ..policy
    });
    for policy in frozen {
        for &now in &nows() {
            for event in &events() {
                let unknown = decide(None, event, now, &policy);
                common_laws(&unknown, event);
                assert!(!unknown.takes_away());
                for lease in &leases() {
                    let decision = decide(Some(lease), event, now, &policy);
                    let context = || format!("{lease:?}\n{event:?} at {now}\n{decision:?}");
                    common_laws(&decision, event);
                    assert!(!decision.takes_away(), "{}", context());
                    if let Some(next) = &decision.next {
                        let ends = rank(&next.state).clamp(1, 3) > rank(&lease.state).clamp(1, 3);
                        assert!(!ends, "{}", context());
                    }
                }
            }
        }
    }
}

/// What holds whether the ledger knows the lease or not.
fn common_laws(decision: &Decision, event: &Event) {
    let publishing = decision
        .effects
        .iter()
        .filter(|effect| **effect == Effect::Answer)
        .count();
    assert_eq!(
        publishing,
        usize::from(!decision.answers.is_empty()),
        "answers recorded here are published here: {decision:?}"
    );
    let putting = decision.effects.contains(&Effect::PutSecret);
    let password = matches!(
        decision.login,
        Some(LoginChange::Create | LoginChange::ResetPassword)
    );
    assert_eq!(putting, password, "a password is put where it was made");
    assert_eq!(putting, decision.then == Then::Report(Report::Delivered));
    let command = matches!(event, Event::Renew { .. } | Event::Revoke(_));
    if command && decision.then == Then::Ack {
        let answered = decision
            .answers
            .iter()
            .any(|answer| answer.to == Whose::Asker);
        assert!(
            answered,
            "a command is not dropped in silence: {decision:?}"
        );
    }
    let deferred = matches!(decision.then, Then::Defer(_));
    let to_asker = decision.answers.iter().any(|a| a.to == Whose::Asker);
    assert!(
        !(deferred && to_asker),
        "what comes back has no answer yet: {decision:?}"
    );
}

fn unknown_laws(decision: &Decision, event: &Event) {
    let created = decision.login == Some(LoginChange::Create);
    assert_eq!(decision.next.is_some(), created);
    assert!(created || decision.login.is_none());
    assert!(!created || matches!(event, Event::Request(_)));
    if let Some(lease) = &decision.next {
        assert!(lease.expires_at <= lease.max_expires_at);
        assert!(lease.issued_at < lease.expires_at || lease.issued_at > start() + days(1_000));
    }
}

/// What stays, what only grows, and whose the lease is meanwhile.
fn lease_laws(lease: &Lease, decision: &Decision, event: &Event, now: Timestamp) {
    let context = || format!("{lease:?}\n{event:?} at {now}\n{decision:?}");
    let others = matches!(
        event,
        Event::Wake { .. } | Event::Revoke(_) | Event::Differs(_)
    );
    if let Some(until) = lease.held_until
        && others
        && now < until
        && decision.answers.is_empty()
    {
        let asked = matches!(event, Event::Revoke(_));
        let again = if asked {
            until.min(steps::later(now, seconds(5)))
        } else {
            until
        };
        assert_eq!(decision.then, Then::Defer(again), "{}", context());
        assert_eq!(decision.next, None, "{}", context());
        assert!(decision.effects.is_empty(), "{}", context());
    }
    if let Event::Delivered { attempt } = event
        && *attempt != lease.attempt
    {
        let own = [Effect::DeleteSecrets(Secrets::Of(*attempt))];
        assert_eq!(decision.effects, own, "{}", context());
    }
    let reporting = match event {
        Event::Delivered { attempt }
        | Event::SessionsGone { attempt, .. }
        | Event::Cleared { attempt }
        | Event::Failed { attempt, .. } => Some(*attempt),
        Event::Request(_)
        | Event::Renew { .. }
        | Event::Revoke(_)
        | Event::Wake { .. }
        | Event::Differs(_)
        | Event::Refused { .. } => None,
    };
    let Some(next) = &decision.next else {
        return;
    };
    assert!(
        reporting.is_none_or(|attempt| attempt == lease.attempt),
        "an overtaken attempt changes nothing: {}",
        context()
    );
    let renews = matches!(event, Event::Renew { .. });
    assert!(next.attempt >= lease.attempt, "{}", context());
    assert!(
        next.sessions_terminated >= lease.sessions_terminated,
        "{}",
        context()
    );
    if *event == Event::Differs(Difference::LoginLeft) {
        assert!(rank(&lease.state) > 2 && rank(&next.state) == 2);
    } else {
        assert!(rank(&next.state) >= rank(&lease.state), "{}", context());
    }
    assert!(next.expires_at <= next.max_expires_at, "{}", context());
    if renews {
        assert_eq!(next.generation, lease.generation + 1, "{}", context());
        assert!(
            next.expires_at > now || now > start() + days(1_000),
            "{}",
            context()
        );
        assert_eq!(
            (&next.state, &lease.state),
            (&State::Active, &State::Active)
        );
    } else {
        assert_eq!(next.generation, lease.generation, "{}", context());
        assert_eq!(next.expires_at, lease.expires_at, "{}", context());
    }
    let constant = Lease {
        expires_at: lease.expires_at,
        generation: lease.generation,
        attempt: lease.attempt,
        held_until: lease.held_until,
        sessions_terminated: lease.sessions_terminated,
        state: lease.state.clone(),
        ..next.clone()
    };
    assert_eq!(&constant, lease, "{}", context());
    match decision.then {
        Then::Report(Report::Cleared) if matches!(lease.state, State::Closed { .. }) => {}
        Then::Report(_) => {
            assert_eq!(next.attempt, lease.attempt + 1, "{}", context());
            assert!(next.held_until.is_some(), "{}", context());
        }
        Then::Defer(until) => assert!(
            next.held_until.is_none()
                || next.state == State::Issuing && next.held_until == Some(until),
            "{}",
            context()
        ),
        Then::Ack => assert!(renews || next.held_until.is_none() || rank(&next.state) == 4),
    }
}

/// What happens to the login, and when it may.
fn login_laws(lease: &Lease, next: &Lease, decision: &Decision, event: &Event, now: Timestamp) {
    let context = || format!("{lease:?}\n{event:?} at {now}\n{decision:?}");
    let (before, after) = (rank(&lease.state), rank(&next.state));
    let asked = matches!(event, Event::Revoke(_));
    let refusal = match event {
        Event::Refused { event, .. } => Some(event.as_ref()),
        Event::Request(_)
        | Event::Renew { .. }
        | Event::Revoke(_)
        | Event::Wake { .. }
        | Event::Delivered { .. }
        | Event::SessionsGone { .. }
        | Event::Cleared { .. }
        | Event::Differs(_)
        | Event::Failed { .. } => None,
    };
    assert_eq!(
        decision.login == Some(LoginChange::Drop),
        before < 3 && after == 3,
        "dropped and dropping go together: {}",
        context()
    );
    if decision.login == Some(LoginChange::Drop) {
        let lost_its_sessions = before == 2 && matches!(event, Event::SessionsGone { .. });
        let missing = matches!(
            event,
            Event::Differs(Difference::LoginMissing | Difference::SecretMissing)
        );
        assert!(
            lease.is_due(now) || asked || lost_its_sessions || missing,
            "{}",
            context()
        );
    }
    assert_eq!(
        decision.login == Some(LoginChange::Disable),
        decision.then == Then::Report(Report::SessionsGone),
        "{}",
        context()
    );
    if before < 2 && after == 2 {
        assert_eq!(decision.login, Some(LoginChange::Disable), "{}", context());
        assert!(refusal.is_some(), "{}", context());
    }
    assert_eq!(
        decision.login == Some(LoginChange::Renew),
        next.generation != lease.generation
    );
    if decision.login == Some(LoginChange::ResetPassword) {
        assert_eq!((before, after), (0, 0), "{}", context());
        assert!(!lease.is_due(now), "{}", context());
    }
    assert_ne!(decision.login, Some(LoginChange::Create), "{}", context());
    if after == 4 && before < 4 {
        assert!(
            before == 3 && matches!(event, Event::Cleared { .. }),
            "{}",
            context()
        );
    }
}

/// The request is answered exactly when its lease leaves `issuing`.
fn answer_laws(lease: &Lease, decision: &Decision, now: Timestamp) {
    let told = told_to_issue(decision);
    let left = lease.state == State::Issuing
        && decision
            .next
            .as_ref()
            .is_some_and(|next| next.state != State::Issuing);
    assert_eq!(told.len(), usize::from(left), "{lease:?} {decision:?}");
    if let Some(outcome) = told.first() {
        let active = next(decision).state == State::Active;
        assert_eq!(matches!(outcome, Outcome::Issued), active);
        assert!(!(active && lease.is_due(now)), "{decision:?}");
    }
    for answer in &decision.answers {
        assert!(
            answer.to == Whose::Issue || answer.outcome != Outcome::Issued,
            "{decision:?}"
        );
    }
}

/// However many effects fail in a row, the delivery comes to an end.
fn failures_end(lease: &Lease, decision: &Decision, now: Timestamp, policy: &Policy) {
    if decision.effects.is_empty() {
        return;
    }
    let mut lease = decision.next.clone().unwrap_or_else(|| lease.clone());
    let mut event = decision.failure("down".into());
    for _ in 0..2 {
        let failed = decide(Some(&lease), &event, now, policy);
        assert!(matches!(failed.then, Then::Defer(_)), "{lease:?} {event:?}");
        if failed.effects.is_empty() {
            return;
        }
        event = failed.failure("down".into());
        lease = failed.next.unwrap_or(lease);
    }
    panic!("failures go round in circles: {lease:?}");
}
