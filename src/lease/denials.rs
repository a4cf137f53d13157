//! What a sender is told when it does not get what it asked for.

use jiff::{SignedDuration, Timestamp};

use super::decision::{Denial, DenialCode, Reason};
use super::{Asking, Policy, RolePolicy};

/// Nothing older may be carried out: its first answer may be forgotten (see
/// [`super::ANSWERS_KEPT`]).
const REMEMBERED: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A request may be dated this far ahead of the database's clock.
const CLOCK_SKEW_MAX: SignedDuration = SignedDuration::from_mins(5);

/// Why a request or renewal is no longer carried out.
pub(super) fn stale(asking: &Asking, now: Timestamp, policy: &Policy) -> Option<Denial> {
    let age = now.duration_since(asking.at);
    if age < -CLOCK_SKEW_MAX {
        return Some(Denial {
            code: DenialCode::InvalidEvent,
            message: "`time` lies more than five minutes ahead; set the sender's clock".into(),
        });
    }
    let over = match asking.expires_at {
        Some(deadline) => now >= deadline,
        None => age > policy.request_age_max,
    };
    (over || age > REMEMBERED).then(too_old)
}

/// Whether a revocation is no longer carried out.
pub(super) fn revocation_is_stale(asking: &Asking, now: Timestamp) -> bool {
    now.duration_since(asking.at) > REMEMBERED
        || asking.expires_at.is_some_and(|deadline| now >= deadline)
}

/// The time to live to grant, and whether it is shorter than what was asked.
pub(super) fn asked_ttl(
    ttl_seconds: Option<i64>,
    role: &RolePolicy,
) -> Result<(SignedDuration, bool), Denial> {
    let Some(seconds) = ttl_seconds else {
        return Ok((role.default_ttl, false));
    };
    let min = role.min_ttl.as_secs().max(1);
    if seconds < min {
        return Err(Denial {
            code: DenialCode::TtlInvalid,
            message: format!("`ttl_seconds` is {seconds} and the role's minimum is {min}; ask for more or leave it out").into(),
        });
    }
    let asked = SignedDuration::from_secs(seconds);
    Ok((asked.min(role.max_ttl), asked > role.max_ttl))
}

pub(super) fn no_such_role() -> Denial {
    Denial {
        code: DenialCode::RoleNotAllowed,
        message: "the role does not exist, or it does not name this requester in `requesters`"
            .into(),
    }
}

pub(super) fn no_longer_granted() -> Denial {
    Denial {
        code: DenialCode::RoleNotAllowed,
        message:
            "the lease's role is no longer granted to its requester; the lease ends as it was told"
                .into(),
    }
}

pub(super) fn too_many(live_leases: u32, max: u32) -> Denial {
    Denial {
        code: DenialCode::LeaseLimit,
        message: format!(
            "{live_leases} leases of this role are alive and `max_leases` is {max}; revoke one or wait for one to expire"
        )
        .into(),
    }
}

pub(super) fn unknown_lease() -> Denial {
    Denial {
        code: DenialCode::LeaseUnknown,
        message: "no such lease, or it belongs to another requester".into(),
    }
}

pub(super) fn ended() -> Denial {
    Denial {
        code: DenialCode::LeaseEnded,
        message: "the lease is over; request a new credential".into(),
    }
}

pub(super) fn too_old() -> Denial {
    Denial {
        code: DenialCode::TooOld,
        message: "the command waited longer than it may; send a new one".into(),
    }
}

pub(super) fn unusable(reason: &Reason) -> Denial {
    Denial {
        code: DenialCode::RoleUnusable,
        message: format!(
            "Postgres refused it: {reason}; keycard's operator must mend the role's groups and \
             statements, or what keycard's user may grant"
        )
        .into(),
    }
}
