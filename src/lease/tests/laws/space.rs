//! What the laws are tried on: times, leases, events and policies of every kind.

use super::super::*;
use crate::lease::Difference;

pub(super) fn nows() -> Vec<Timestamp> {
    let due = start() + seconds(3_600);
    let instants = [
        start(),
        t0(),
        t0() + seconds(60),
        due - SignedDuration::from_nanos(1),
        due,
        due + days(1),
        start() + days(40),
    ];
    let mut nows = vec![Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX];
    nows.extend(instants);
    nows
}

pub(super) fn leases() -> Vec<Lease> {
    let mut states = vec![State::Issuing, State::Active, closed(None)];
    for at in [Timestamp::MIN, t0(), t0() + seconds(90), Timestamp::MAX] {
        states.extend([
            revoking(0, at),
            revoking(5, at),
            revoking(6, at),
            revoking(1_000, at),
            dropped(0, at),
            dropped(6, at),
            closed(Some(at)),
        ]);
    }
    let mut leases = vec![];
    for state in states {
        for held_until in [None, Some(t0() + seconds(60)), Some(Timestamp::MAX)] {
            for (attempt, generation) in [(1, 1), (3, 2)] {
                let usual = Lease {
                    generation,
                    attempt,
                    held_until,
                    ..lease(state.clone())
                };
                leases.push(usual.clone());
                leases.push(Lease {
                    expires_at: usual.max_expires_at,
                    sessions_terminated: u32::MAX,
                    ..usual.clone()
                });
                leases.push(Lease {
                    issued_at: Timestamp::MIN,
                    expires_at: Timestamp::MAX,
                    max_expires_at: Timestamp::MAX,
                    ..usual
                });
            }
        }
    }
    leases
}

pub(super) fn events() -> Vec<Event> {
    let mut events = vec![];
    for ttl in [
        None,
        Some(i64::MIN),
        Some(0),
        Some(60),
        Some(1_000_000),
        Some(i64::MAX),
    ] {
        events.push(Event::Request(request(ttl)));
        events.push(renewal(t0(), ttl));
    }
    for by in ["orders", "ops", "mallory"] {
        for at in [Timestamp::MIN, t0(), Timestamp::MAX] {
            let mut asking = asking(by, at);
            events.push(Event::Revoke(asking.clone()));
            asking.expires_at = Some(Timestamp::MAX);
            events.push(Event::Renew {
                asking,
                ttl_seconds: None,
            });
        }
    }
    for generation in [None, Some(0), Some(1), Some(2), Some(u32::MAX)] {
        events.push(Event::Wake { generation });
    }
    for attempt in [0, 1, 2, 3, u32::MAX] {
        events.push(delivered(attempt));
        events.push(failure(attempt));
        events.push(Event::Cleared { attempt });
        for left in [None, Some("2 tables".into())] {
            events.push(Event::SessionsGone {
                attempt,
                terminated: u32::MAX,
                left,
            });
        }
    }
    events.extend([
        Event::Differs(Difference::LoginMissing),
        Event::Differs(Difference::LoginLeft),
        Event::Differs(Difference::SecretLeft),
        Event::Differs(Difference::SecretMissing),
    ]);
    let refusals: Vec<Event> = events.iter().cloned().map(refused).collect();
    events.extend(refusals);
    events.push(refused(refused(Event::Wake { generation: None })));
    events
}

pub(super) fn policies() -> Vec<Policy> {
    let boundless = Policy {
        hold: SignedDuration::MAX,
        request_age_max: SignedDuration::MAX,
        frozen: false,
        role: Some(RolePolicy {
            default_ttl: SignedDuration::MAX,
            max_ttl: SignedDuration::MAX,
            min_ttl: SignedDuration::ZERO,
            leases_max: Some(u32::MAX),
        }),
    };
    let withdrawn = Policy {
        role: None,
        ..policy()
    };
    vec![policy(), withdrawn, boundless]
}
