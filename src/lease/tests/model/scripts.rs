//! What is asked for in each of the searches, and how much may go wrong meanwhile.

use super::*;

/// A small play: who sends what, and what the world is like.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) name: &'static str,
    pub(super) commands: Vec<Command>,
    /// Faults that the small bound and the full one allow.
    pub(super) faults: [u8; 2],
    /// Whether the configuration grants the role.
    pub(super) has_role: bool,
    /// Other leases of the requester.
    pub(super) live_leases: u32,
    /// Whether something depends on the login until somebody mends it.
    pub(super) has_obstacle: bool,
    /// Whether an operator freezes revocations once.
    pub(super) freezes: bool,
}

/// A command of a script.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) wish: Wish,
    pub(super) by: &'static str,
    /// The sender's id for it.
    pub(super) key: usize,
    /// When it says that it was sent, in seconds from the beginning.
    pub(super) sent_at: i64,
    /// Whether it comes when it likes, or at once.
    pub(super) is_slow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Credential { ttl_seconds: Option<i64> },
    Renewal,
    End,
}

impl Command {
    pub(super) fn event(&self, live_leases: u32) -> Event {
        let asking = asking(self.by, start() + seconds(self.sent_at));
        match self.wish {
            Wish::Credential { ttl_seconds } => Event::Request(NewLease {
                asking,
                ttl_seconds,
                live_leases,
                ..request(None)
            }),
            Wish::Renewal => Event::Renew {
                asking,
                ttl_seconds: None,
            },
            Wish::End => Event::Revoke(asking),
        }
    }
}

impl Script {
    fn new(name: &'static str, faults: [u8; 2], wishes: &[(Wish, &'static str)]) -> Self {
        let commands = wishes
            .iter()
            .enumerate()
            .map(|(key, (wish, by))| Command {
                wish: *wish,
                by,
                key,
                sent_at: 0,
                is_slow: key > 0,
            })
            .collect();
        Self {
            name,
            commands,
            faults,
            has_role: true,
            live_leases: 0,
            has_obstacle: false,
            freezes: false,
        }
    }

    pub(super) fn policy(&self, frozen: bool) -> Policy {
        Policy {
            hold: HOLD,
            request_age_max: REQUEST_AGE_MAX,
            frozen,
            role: self.has_role.then(|| RolePolicy {
                default_ttl: TTL,
                max_ttl: TTL_MAX,
                min_ttl: seconds(10),
                leases_max: Some(1),
            }),
        }
    }
}

const CREDENTIAL: (Wish, &str) = (Wish::Credential { ttl_seconds: None }, "orders");
const RENEWAL: (Wish, &str) = (Wish::Renewal, "orders");
const END: (Wish, &str) = (Wish::End, "orders");

/// Lives of a lease, then commands that are denied for what they are.
pub(super) fn all() -> Vec<Script> {
    let with = |wish| [CREDENTIAL, wish];
    let mut scripts = vec![
        Script::new("a request", [2, 3], &[CREDENTIAL]),
        Script::new("a renewal", [1, 2], &with(RENEWAL)),
        Script::new("a revocation", [1, 2], &with(END)),
        Script::new(
            "a renewal and a revocation",
            [0, 1],
            &[CREDENTIAL, RENEWAL, END],
        ),
        Script::new(
            "an operator's revocation",
            [0, 1],
            &with((Wish::End, "ops")),
        ),
        Script::new(
            "a stranger's commands",
            [0, 1],
            &[
                CREDENTIAL,
                (Wish::End, "mallory"),
                (Wish::Renewal, "mallory"),
            ],
        ),
        Script {
            has_obstacle: true,
            ..Script::new("a login that cannot be dropped", [1, 2], &[CREDENTIAL])
        },
        Script {
            freezes: true,
            ..Script::new("a freeze", [0, 1], &with(END))
        },
        Script::new(
            "no time at all",
            [1, 2],
            &[(
                Wish::Credential {
                    ttl_seconds: Some(0),
                },
                "orders",
            )],
        ),
        Script {
            has_role: false,
            ..Script::new("a role that is gone", [1, 2], &[CREDENTIAL])
        },
        Script {
            live_leases: 1,
            ..Script::new("a lease too many", [1, 2], &[CREDENTIAL])
        },
    ];
    let mut hindered = Script {
        has_obstacle: true,
        ..Script::new("its revocation", [0, 1], &with(END))
    };
    hindered.commands[1].is_slow = false;
    scripts.push(hindered);
    for (name, sent_at) in [("a request from the past", -901), ("from the future", 301)] {
        let mut script = Script::new(name, [1, 2], &[CREDENTIAL]);
        script.commands[0].sent_at = sent_at;
        scripts.push(script);
    }
    let mut reused = Script::new(
        "an id used twice",
        [1, 2],
        &with((
            Wish::Credential {
                ttl_seconds: Some(20),
            },
            "orders",
        )),
    );
    reused.commands[1].key = 0;
    scripts.push(reused);
    scripts
}
