//! Random worlds: crashes, outages, refusals, duplicates, losses, sleeping workers, then peace. In
//! the end nothing may be left over, and everybody must have been answered once.

use std::collections::BTreeSet;

use super::parts::{Faults, Message};
use super::world::World;
use super::*;

const STEPS_OF_CHAOS: u32 = 120;
const STEPS_OF_PEACE_MAX: u32 = 3_000;

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    publish_commands(&mut world);
    world.faults = Faults {
        crash: world.rng.pick(&[0, 2, 10]),
        failure: world.rng.pick(&[0, 5, 30]),
        duplicate: world.rng.pick(&[0, 20]),
        lost_expiry: world.rng.pick(&[0, 50, 100]),
        refusal: world.rng.pick(&[0, 0, 20, 90]),
        ..Faults::default()
    };
    for _ in 0..STEPS_OF_CHAOS {
        match world.rng.below(100) {
            0..20 => {
                let milliseconds = world
                    .rng
                    .pick(&[1, 50, 50, 1_000, 1_000, 7_000, 7_000, 61_000, 130_000]);
                world.now += SignedDuration::from_millis(milliseconds);
            }
            20..23 => world.faults.store_is_down = world.rng.percent(40),
            23..26 => world.faults.broker_is_down = world.rng.percent(40),
            26..28 => {
                let frozen = world.rng.percent(30);
                world.freeze(frozen);
            }
            28..64 => world.work(0),
            _ => world.work(1),
        }
    }
    world.faults = Faults::default();
    world.freeze(false);
    make_peace(&mut world);
    check_the_end(&world);
    world
}

/// A request and what its owner, an operator and a stranger want from the lease afterwards.
fn publish_commands(world: &mut World) {
    let mut new = request(None);
    new.asking.at = world.now;
    world.publish(Event::Request(new), world.now);
    for _ in 0..world.rng.below(5) {
        let after = i64::try_from(world.rng.below(300)).unwrap();
        let at = world.now + seconds(after);
        let asking = asking(world.rng.pick(&["orders", "orders", "ops", "mallory"]), at);
        let event = if world.rng.percent(60) {
            Event::Renew {
                asking,
                ttl_seconds: world.rng.pick(&[None, Some(30), Some(90), Some(i64::MAX)]),
            }
        } else {
            Event::Revoke(asking)
        };
        world.publish(event, at);
    }
    if world.rng.percent(30) {
        let at = world.now + seconds(60);
        world.queue.push((at, Message::Command(0)));
    }
}

/// Everything works from now on, so everything comes to an end.
fn make_peace(world: &mut World) {
    for _ in 0..STEPS_OF_PEACE_MAX {
        world.work(0);
        world.work(1);
        if !world.is_idle() {
            continue;
        }
        match world.next_wake() {
            Some(at) => world.now = world.now.max(at),
            None if world.commands.iter().all(|command| command.is_told) => return,
            None => {}
        }
    }
    panic!("it never ends: {:?}", world.lease);
}

fn check_the_end(world: &World) {
    assert!(!world.login_exists());
    assert_eq!(world.secrets, BTreeSet::new(), "secrets are left");
    let was_issued = world.commands[0].answer == Some(Outcome::Issued);
    for command in &world.commands {
        let answer = command.answer.as_ref().expect("an answer");
        let denial = match answer {
            Outcome::Denied(denial) => Some(denial.code),
            Outcome::Issued | Outcome::Renewed { .. } | Outcome::Revoked => None,
        };
        let fits = match &command.event {
            Event::Request(_) => denial.is_some() || was_issued,
            Event::Renew { asking, .. } | Event::Revoke(asking)
                if asking.by.as_str() == "mallory" =>
            {
                denial == Some(DenialCode::LeaseUnknown)
            }
            Event::Renew { .. } => {
                denial.is_some() || was_issued && matches!(answer, Outcome::Renewed { .. })
            }
            Event::Revoke(_) => {
                *answer == Outcome::Revoked || denial == Some(DenialCode::LeaseUnknown)
            }
            Event::Wake { .. }
            | Event::Delivered { .. }
            | Event::SessionsGone { .. }
            | Event::Cleared { .. }
            | Event::Differs(_)
            | Event::Failed { .. }
            | Event::Refused { .. } => false,
        };
        assert!(fits, "{:?}: {answer:?}", command.event);
    }
    if let Some(lease) = &world.lease {
        let done = matches!(
            lease.state,
            State::Closed {
                recheck_at: None,
                ..
            }
        );
        assert!(done, "{:?}", lease.state);
    }
}

#[test]
fn every_world_comes_to_a_good_end() {
    let mut reasons = BTreeSet::new();
    for seed in 0..20_000 {
        let told = std::panic::catch_unwind(|| run(seed).reasons);
        reasons.extend(told.unwrap_or_else(|_| panic!("seed {seed}")));
    }
    // The worlds are worth nothing unless they go where it hurts.
    for needed in [
        "another attempt holds the lease",
        "a credential was asked for",
        "the earlier attempt did not finish",
        "expired while issuing",
        "the credential is delivered",
        "overtaken by another attempt",
        "not due yet, so the rest of the time is armed",
        "not due, and another expiry event is armed",
        "a renewal was asked for",
        "the lease is still being issued",
        "the lease is due",
        "revocation was asked for",
        "revocation goes on",
        "the next attempt is not due yet",
        "no session is left",
        "permission denied",
        "it owns 2 tables",
        "revocations are frozen",
        "it is down",
        "clearing up goes on",
        "login and secrets are gone",
        "the lease was revoked before",
        "late writers may have left a secret",
        "the secrets were deleted once more",
        "denied: lease_ended",
        "denied: role_unusable",
        "denied: lease_unknown",
    ] {
        assert!(reasons.contains(needed), "{needed}: {reasons:?}");
    }
}
