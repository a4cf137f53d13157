//! The flows, and the places that each passes. A place is the lease's state, and the commit that
//! leads to it or what happens then; `none` where there is no lease.

use std::iter::zip;

use super::Fault;

/// A way through the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Issue,
    /// The first attempt cannot store the credential.
    IssueAgain,
    /// An attempt that another has overtaken reports.
    Overtaken,
    Renew,
    /// A command that is denied.
    Deny,
    /// The fast path.
    Revoke,
    /// The slow path: the login owns a table.
    RevokeSlowly,
    /// The table may not be dropped, and this is the sixth failure.
    Stick,
    /// A command that another attempt's hold defers.
    Defer,
    Replay,
    ReplayRenewal,
    /// A request whose lease has ended is repeated.
    ReplayEnded,
    Expire,
    /// The expiry event comes too early.
    ExpireEarly,
    /// An expiry event of a lease that the ledger has lost.
    Lose,
    /// The sweep finds a lease that is due.
    Sweep,
    /// The sweep looks once more for what late writers may have left.
    SweepClosed,
    /// The sweep finds an answer that nobody has published.
    SweepAnswer,
    ReconcileLoginMissing,
    ReconcileLoginLeft,
    ReconcileSecretLeft,
}

/// Cells that stop a worker together, and how many of them may at a time.
pub type Bottleneck = (&'static str, usize);

const FROM_DROPPED: [&str; 6] = [
    "dropped.commit",
    "dropped.TerminateSessions",
    "dropped.DeleteSecrets All",
    "dropped.Publish Revoked",
    "closed.commit",
    "closed.Answer",
];

const FROM_REVOKING: [&str; 9] = [
    "revoking.commit",
    "revoking.TerminateSessions",
    "revoking.ClearObjects",
    "dropped.commit",
    "dropped.TerminateSessions",
    "dropped.DeleteSecrets All",
    "dropped.Publish Revoked",
    "closed.commit",
    "closed.Answer",
];

impl Flow {
    pub const COMMANDS: [Self; 12] = [
        Self::Issue,
        Self::IssueAgain,
        Self::Overtaken,
        Self::Renew,
        Self::Deny,
        Self::Revoke,
        Self::RevokeSlowly,
        Self::Stick,
        Self::Defer,
        Self::Replay,
        Self::ReplayRenewal,
        Self::ReplayEnded,
    ];
    pub const WAKE_UPS: [Self; 6] = [
        Self::Expire,
        Self::ExpireEarly,
        Self::Lose,
        Self::Sweep,
        Self::SweepClosed,
        Self::SweepAnswer,
    ];
    pub const RECONCILIATION: [Self; 3] = [
        Self::ReconcileLoginMissing,
        Self::ReconcileLoginLeft,
        Self::ReconcileSecretLeft,
    ];

    pub fn all() -> impl Iterator<Item = Self> {
        let all = [
            &Self::COMMANDS[..],
            &Self::WAKE_UPS[..],
            &Self::RECONCILIATION[..],
        ];
        all.into_iter().flatten().copied()
    }

    /// Every place that it passes when nothing goes wrong, in their order.
    pub fn places(self) -> &'static [&'static str] {
        match self {
            Self::Issue => &[
                "issuing.commit",
                "issuing.PutSecret",
                "issuing.ArmExpiry",
                "active.commit",
                "active.Answer",
            ],
            Self::IssueAgain => &[
                "issuing.commit",
                "issuing.PutSecret",
                "issuing.commit",
                "issuing.commit",
                "issuing.PutSecret",
                "issuing.ArmExpiry",
                "issuing.DeleteSecrets Superseded",
                "active.commit",
                "active.Answer",
            ],
            Self::Overtaken => &[
                "issuing.commit",
                "issuing.PutSecret",
                "issuing.ArmExpiry",
                "issuing.commit",
                "issuing.PutSecret",
                "issuing.ArmExpiry",
                "issuing.DeleteSecrets Superseded",
                "active.commit",
                "active.Answer",
                "active.commit",
                "active.DeleteSecrets Of 1",
            ],
            Self::Renew | Self::ReplayRenewal => {
                &["active.commit", "active.ArmExpiry", "active.Answer"]
            }
            Self::Deny | Self::Replay => &["active.commit", "active.Answer"],
            Self::Revoke | Self::Expire | Self::Sweep | Self::ReconcileLoginMissing => {
                &FROM_DROPPED
            }
            Self::RevokeSlowly | Self::ReconcileLoginLeft => &FROM_REVOKING,
            Self::Stick => &[
                "revoking.commit",
                "revoking.TerminateSessions",
                "revoking.ClearObjects",
                "revoking.commit",
                "revoking.Publish RevocationFailed",
            ],
            Self::Defer => &["none.defer"],
            Self::ReplayEnded => &["none.commit", "none.Answer"],
            Self::ExpireEarly => &["active.commit", "active.ArmExpiry"],
            Self::Lose => &[
                "none.commit",
                "none.DeleteSecrets All",
                "none.Publish Missing",
            ],
            Self::SweepClosed => &[
                "closed.commit",
                "closed.TerminateSessions",
                "closed.DeleteSecrets All",
                "closed.commit",
            ],
            Self::SweepAnswer => &["none.Answer"],
            Self::ReconcileSecretLeft => &["closed.commit", "closed.DeleteSecrets All"],
        }
    }

    /// Whether a step is committed at the `n`th place.
    pub fn commits(self, n: usize) -> bool {
        self.places()[n].ends_with(".commit")
    }

    /// What makes the flow what it is: a fault at the place before the first that is of interest.
    fn given(self) -> Option<(usize, &'static str)> {
        if self == Self::IssueAgain {
            Some((1, "fail_before"))
        } else {
            matches!(self, Self::Overtaken | Self::Stick).then_some((2, "stop_after"))
        }
    }

    /// The first place that other flows do not have already.
    pub fn first(self) -> usize {
        if self == Self::Overtaken {
            9
        } else {
            self.given().map_or(0, |(given, _)| given + 1)
        }
    }

    /// The orders for a fault at the `n`th place.
    pub fn orders(self, n: usize, fault: Fault) -> Vec<String> {
        let places = self.places();
        let mut orders = Vec::new();
        for (at, place) in zip(0..=n, places) {
            match self.given() {
                _ if at == n => orders.push(format!("{} {place}", fault.order())),
                Some((given, order)) if at == given => orders.push(format!("{order} {place}")),
                _ if *place == places[n] => orders.push(format!("pass {place}")),
                _ => {}
            }
        }
        orders
    }

    /// What keeps others from going on while a worker stops there, if anything.
    pub fn bottleneck(self) -> Option<Bottleneck> {
        // As many as the sweep, and reconciliation of each kind, work on side by side.
        let narrow = [
            (Self::Sweep, ("sweep", 8)),
            (Self::SweepClosed, ("sweep", 8)),
            (Self::SweepAnswer, ("answers", 1)),
            (Self::ReconcileLoginMissing, ("missing", 8)),
            (Self::ReconcileLoginLeft, ("left", 8)),
            (Self::ReconcileSecretLeft, ("secrets", 8)),
        ];
        let own = narrow.iter().find(|(flow, _)| *flow == self);
        own.map(|(_, bottleneck)| *bottleneck)
    }

    /// Whether its lease lives on.
    pub fn leaves_alive(self) -> bool {
        matches!(
            self,
            Self::Issue
                | Self::IssueAgain
                | Self::Overtaken
                | Self::Renew
                | Self::Deny
                | Self::Replay
                | Self::ReplayRenewal
                | Self::ExpireEarly
                | Self::SweepAnswer
        )
    }

    /// Further lines of its role.
    pub fn role(self) -> &'static str {
        if self == Self::RevokeSlowly {
            "drop_owned = true"
        } else {
            ""
        }
    }
}
