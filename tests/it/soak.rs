//! The soak: services that ask, use, renew and give back, on a system in which everything fails.
//!
//! A seed decides who does what and what goes wrong, in which order and with which pauses. It does
//! not decide how that meets: two runs of a seed do the same and need not find the same.
//!
//! `make soak MINUTES=30 SEED=7`; otherwise it takes half a minute, with a seed of its own.

mod dice;
mod faults;
mod guests;
mod stay;
mod town;
mod watch;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use keycard::clock::{monotonic_now, random_bytes};

use crate::support::audit::Secrets;
use crate::support::invariants::{Violation, explain, lost, unsettled};
use faults::{Nuisances, ServerFaults};
use guests::Guests;
use town::Town;

/// Without `KEYCARD_SOAK_SECONDS`.
const SECONDS: u64 = 30;

/// Without `KEYCARD_SOAK_SEED`. Every `make test` does the same.
const SEED: u64 = 1;

/// How long it may take until all is done once nothing fails any more: a delivery that has failed
/// often waits for 150 s, a revocation that has for 300.
const SETTLED_SECONDS: u64 = 420;

#[tokio::test(flavor = "multi_thread")]
async fn everything_holds_whatever_fails() {
    let seconds = setting("KEYCARD_SOAK_SECONDS").map_or(SECONDS, |text| text.parse().unwrap());
    let seed = match setting("KEYCARD_SOAK_SEED").as_deref() {
        None => SEED,
        Some("random") => u64::from(u32::from_be_bytes(random_bytes())),
        Some(text) => text.parse().unwrap(),
    };
    soak(seed, Duration::from_secs(seconds)).await;
}

#[expect(clippy::disallowed_methods, reason = "the tests' own setting")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

async fn soak(seed: u64, duration: Duration) {
    let town = Arc::new(Town::build(seed).await);
    println!(
        "soak: seed {seed}, {} s, PostgreSQL {}, {}",
        duration.as_secs(),
        town.postgres.version,
        if town.rabbitmq.is_some() {
            "amqp"
        } else {
            "postgres"
        },
    );
    let end = monotonic_now() + duration;
    let mut nuisances = Nuisances::start(&town, seed).await;
    let mut guests = Guests::arrive(&town, seed).await;
    let mut servers = ServerFaults::new(&town, seed);
    let watching = watch::start(&town);
    tokio::join!(
        guests.live_until(end),
        nuisances.annoy_until(end),
        servers.fail_until(end),
    );

    nuisances.end().await;
    town.store.heal();
    town.look_at_closed_leases_again().await;
    guests.repeat_what_is_lost();
    let mut found = settled(&town, &guests).await;
    guests.use_all_that_lives().await;
    let came_to = came_to(&town).await;
    guests.give_all_back().await;
    found.extend(settled(&town, &guests).await);
    let left = "SELECT count(*) FROM keycard.leases WHERE state <> 'closed'";
    if town.site.count(left).await > 0 {
        found.push(Violation::at_large(
            "a lease that was given back is not closed",
        ));
    }
    found.extend(lost(&town.site, guests.unreadable()).await);
    watching.end().await;
    found.extend(town.found());
    found.sort();
    found.dedup();

    println!("done:     {}", in_words(&guests.done()));
    println!("injected: {}", in_words(&town.injected()));
    println!("came to:  {}", in_words(&came_to));
    if found.is_empty() {
        println!("found:    nothing");
        return;
    }
    let explained = explain(&town.site, &found).await;
    let kept = town.keep_logs(seed);
    panic!(
        "soak: seed {seed} found {} violations; the workers' logs are in {}\n{explained}",
        found.len(),
        kept.display(),
    );
}

/// Waits until everything is done and as it must be; what is not, in the end.
async fn settled(town: &Town, guests: &Guests) -> Vec<Violation> {
    let secrets = Secrets::Fake(&town.store);
    let testify = || guests.testimonies();
    let begun = monotonic_now();
    let found = unsettled(&town.site, &secrets, testify, SETTLED_SECONDS).await;
    let took = monotonic_now() - begun;
    println!("soak: at rest after {} s", took.as_secs());
    found
}

fn in_words(counts: &BTreeMap<String, i64>) -> String {
    let mut text = String::new();
    for (what, count) in counts {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{count} {what}");
    }
    text
}

/// What became of what was asked, so that nobody takes an idle run for a good one.
async fn came_to(town: &Town) -> BTreeMap<String, i64> {
    let counted =
        "SELECT concat_ws(' ', action, code, cause), count(*) FROM keycard.audit GROUP BY 1
                   UNION ALL
                   SELECT 'leases delivered at a later attempt', count(*) FROM keycard.leases
                   WHERE cardinality(locators) > 1";
    let rows = town.site.sql().await.query(counted, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
