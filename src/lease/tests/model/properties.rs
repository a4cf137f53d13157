//! What must always hold, and what must be seen at least once so that the search is worth something.

use stateright::Property;

use super::super::super::{Effect, Lease};
use super::scene::{Freeze, Message, Scene, Told};
use super::scripts::Wish;
use super::*;

/// What must always hold, at every moment of every play.
pub(super) fn laws() -> Vec<Property<Search>> {
    vec![
        Property::always("no login without a lease", no_login_without_a_lease),
        Property::always("no login outlives its lease", no_login_outlives_its_lease),
        Property::always("what was told is true", what_was_told_is_true),
        Property::always("nobody's lease ends early", nobodys_lease_ends_early),
        Property::always(
            "every command is answered once",
            every_command_is_answered_once,
        ),
        Property::always("closed leases leave nothing", closed_leases_leave_nothing),
        Property::always("everything comes to its end", everything_comes_to_its_end),
        Property::always(
            "stuck only when retries are spent",
            stuck_only_when_retries_are_spent,
        ),
        Property::always(
            "one expiry event for each generation",
            one_expiry_event_each,
        ),
    ]
}

/// Invariant 1: login and lease come and go together.
fn no_login_without_a_lease(_: &Search, scene: &Scene) -> bool {
    let owns_one = scene.lease.as_ref().is_some_and(|lease| match lease.state {
        State::Issuing | State::Active | State::Revoking { .. } => true,
        State::Dropped { .. } | State::Closed { .. } => false,
    });
    scene.login.is_some() == owns_one
}

/// Nobody logs in once the lease is over, and whoever is connected goes soon after: when the sweep
/// comes by or, for each fault, when the next attempt may begin (counted from when a worker is awake
/// and revocations are not frozen).
fn no_login_outlives_its_lease(_: &Search, scene: &Scene) -> bool {
    let Some(lease) = &scene.lease else {
        return !scene.is_usable();
    };
    let thawed_at = match scene.freeze {
        Freeze::NotYet => lease.expires_at,
        Freeze::Frozen(_) => scene.now,
        Freeze::Thawed(at) => at,
    };
    let patience = SWEEP_GRACE + (HOLD + SWEEP_GRACE) * i32::from(scene.faults);
    let begins_at = thawed_at.max(scene.deserted_until);
    let is_late = |over_at: Timestamp| scene.now > over_at.max(begins_at) + patience;
    let over_at = match lease.state {
        State::Dropped { revoked_at, .. } => lease.expires_at.min(revoked_at),
        State::Issuing | State::Active | State::Revoking { .. } | State::Closed { .. } => {
            lease.expires_at
        }
    };
    let is_let_in = scene.is_usable() && lease.has_ended(scene.now);
    let stays = scene.has_session && is_late(over_at);
    !is_let_in && !stays
}

/// Invariants 6 and 7: a credential that was told is in the store and works until its lease ends;
/// an end that was told has come.
fn what_was_told_is_true(search: &Search, scene: &Scene) -> bool {
    let lease = scene.lease.as_deref();
    let is_alive = lease.is_some_and(|lease| !lease.has_ended(scene.now));
    let is_true = |(command, told): &(usize, Told)| match *told {
        Told::Issued { attempt } => {
            let is_stored = scene.secrets.get(&search.locator(attempt)) == Some(&attempt);
            let opens = scene.login.is_some_and(|login| login.password == attempt);
            match lease.map(|lease| &lease.state) {
                None | Some(State::Issuing) => false,
                Some(State::Active) => !is_alive || is_stored && opens && scene.is_usable(),
                Some(State::Revoking { .. } | State::Dropped { .. } | State::Closed { .. }) => true,
            }
        }
        Told::Renewed {
            generation,
            expires_at,
        } => lease.is_some_and(|lease| {
            lease.generation > generation
                || lease.generation == generation && lease.expires_at == expires_at
        }),
        Told::Revoked => scene.login.is_none(),
        Told::Denied("request_id_reused") => true,
        Told::Denied(_) => {
            let wish = search.script(scene).commands[*command].wish;
            !(is_alive && matches!(wish, Wish::Credential { .. }))
        }
    };
    scene.told.iter().all(is_true) && !(scene.notices.end && scene.login.is_some())
}

/// Invariant 3: a lease ends when it is due, or when somebody asked for it who may, or because it
/// could not be delivered; until then its login lets its owner in.
fn nobodys_lease_ends_early(search: &Search, scene: &Scene) -> bool {
    let Some(lease) = &scene.lease else {
        return true;
    };
    let was_asked = |by: &str| {
        scene.rows.iter().flatten().any(|row| {
            let command = &search.script(scene).commands[row.of];
            command.wish == Wish::End && command.by == by
        })
    };
    let was_told = || {
        scene
            .told
            .iter()
            .any(|(_, told)| matches!(told, Told::Issued { .. }))
    };
    match lease.state {
        State::Issuing | State::Active => {
            lease.is_due(scene.now)
                || scene.is_usable()
                    && scene
                        .login
                        .is_some_and(|login| login.valid_until == lease.expires_at)
        }
        State::Revoking { cause, .. }
        | State::Dropped { cause, .. }
        | State::Closed { cause, .. } => match cause {
            Cause::Expired => lease.is_due(scene.now),
            Cause::Requested => was_asked("orders"),
            Cause::Operator => was_asked("ops"),
            Cause::Missing => !was_told(),
        },
    }
}

/// Invariant 4: a command has one answer for ever, which is told as it is, except that a credential
/// is no longer told once it has ended.
fn every_command_is_answered_once(search: &Search, scene: &Scene) -> bool {
    let ended = Told::Denied("lease_ended");
    let is_told_rightly = |(command, told): &(usize, Told)| {
        let row = scene.rows[search.script(scene).commands[*command].key].as_ref();
        row.is_some_and(|row| match row.answer {
            _ if row.of != *command => *told == Told::Denied("request_id_reused"),
            Some(Told::Issued { .. }) if *told == ended => true,
            answer => answer == Some(*told),
        })
    };
    let is_rewritten = scene.rows.iter().flatten().any(|row| row.is_rewritten);
    let has_heard = |command: usize| scene.told.iter().any(|(of, _)| *of == command);
    let commands = 0..search.script(scene).commands.len();
    !is_rewritten
        && scene.told.iter().all(is_told_rightly)
        && (!search.is_at_rest(scene) || commands.into_iter().all(has_heard))
}

/// Invariant 8: nobody is connected, and no secret is left but what late writers bring; in the end
/// not even that.
fn closed_leases_leave_nothing(search: &Search, scene: &Scene) -> bool {
    let is_closed = scene
        .lease
        .as_ref()
        .is_some_and(|lease| matches!(lease.state, State::Closed { .. }));
    if !is_closed {
        return true;
    }
    let is_clear = scene
        .secrets
        .keys()
        .all(|locator| scene.strays.contains(locator));
    is_clear
        && !scene.has_session
        && scene.notices.end
        && (!search.is_at_rest(scene) || scene.secrets.is_empty())
}

/// Whatever happens, in the end nothing is left to do: the lease is closed, and looked at no more.
fn everything_comes_to_its_end(search: &Search, scene: &Scene) -> bool {
    let is_over = |lease: &Lease| {
        matches!(
            lease.state,
            State::Closed {
                recheck_at: None,
                ..
            }
        )
    };
    let lease = scene.lease.as_deref();
    scene.now < start() + HORIZON && (!search.is_at_rest(scene) || lease.is_none_or(is_over))
}

/// Invariant 9: somebody is called only after six attempts have failed, and until it is mended the
/// login is disabled and tried again.
fn stuck_only_when_retries_are_spent(_: &Search, scene: &Scene) -> bool {
    let is_spent = u32::from(scene.setbacks) >= STUCK_AFTER_FAILURES;
    let is_called = scene.notices.failure;
    scene.lease.as_ref().is_none_or(|lease| {
        let is_stuck = lease.is_stuck();
        (is_spent || !(is_stuck || is_called))
            && (!is_stuck || lease.wake_at().is_some() && !scene.is_usable())
    })
}

/// Invariant 12: expiry events do not multiply, but for one that a fault may have armed again.
fn one_expiry_event_each(_: &Search, scene: &Scene) -> bool {
    let Some(lease) = &scene.lease else {
        return true;
    };
    let of_this_generation = Message::Expire {
        generation: lease.generation,
    };
    let in_hand = scene.tasks.iter().filter_map(|task| task.delivery.as_ref());
    let count = scene
        .queue
        .iter()
        .chain(in_hand)
        .filter(|delivery| delivery.message == of_this_generation)
        .count();
    count <= 1 + usize::from(scene.faults)
}

/// Every state of a lease, late writers, and every denial that the core and the ledger can give.
pub(super) fn sights() -> Vec<Property<Search>> {
    let sees = Property::sometimes;
    vec![
        sees("issuing", |_, it| {
            is_seen(it, |it| it.state == State::Issuing)
        }),
        sees("active", |_, it| {
            is_seen(it, |it| it.state == State::Active)
        }),
        sees("revoking", |_, it| {
            is_seen(it, |it| matches!(it.state, State::Revoking { .. }))
        }),
        sees("stuck", |_, it| is_seen(it, Lease::is_stuck)),
        sees("dropped", |_, it| {
            is_seen(it, |it| matches!(it.state, State::Dropped { .. }))
        }),
        sees("closed", |_, it| {
            is_seen(it, |it| matches!(it.state, State::Closed { .. }))
        }),
        sees("renewed", |_, it| is_seen(it, |it| it.generation > 1)),
        sees("overtaken", |_, it| {
            let lease = it.lease.as_deref();
            it.tasks.iter().any(|task| {
                task.pending.contains(&Effect::PutSecret) && task.lease.as_deref() != lease
            })
        }),
        sees("late secret", |_, it| !it.strays.is_empty()),
        sees("invalid_event", |_, it| is_denied(it, "invalid_event")),
        sees("role_not_allowed", |_, it| {
            is_denied(it, "role_not_allowed")
        }),
        sees("ttl_invalid", |_, it| is_denied(it, "ttl_invalid")),
        sees("too_old", |_, it| is_denied(it, "too_old")),
        sees("lease_limit", |_, it| is_denied(it, "lease_limit")),
        sees("lease_unknown", |_, it| is_denied(it, "lease_unknown")),
        sees("lease_ended", |_, it| is_denied(it, "lease_ended")),
        sees("request_id_reused", |_, it| {
            is_denied(it, "request_id_reused")
        }),
        sees("role_unusable", |_, it| is_denied(it, "role_unusable")),
    ]
}

fn is_seen(scene: &Scene, is: fn(&Lease) -> bool) -> bool {
    scene.lease.as_deref().is_some_and(is)
}

fn is_denied(scene: &Scene, code: &'static str) -> bool {
    scene
        .told
        .iter()
        .any(|(_, told)| *told == Told::Denied(code))
}
