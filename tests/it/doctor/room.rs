//! What runs out or drifts apart.

use super::{Said, assert_nothing_is_left, doctor, superuser};
use crate::support::servers::{Postgres, postgres_version};
use crate::support::services::QueueKind;
use crate::support::site::{Site, Wishes};

#[tokio::test(flavor = "multi_thread")]
async fn what_will_run_out_is_told() {
    // The thousand logins are no look-alikes to anybody else's test on a server of their own.
    let site = Site::new(Wishes {
        postgres: Box::leak(Box::new(Postgres::start(postgres_version(), &[], None))),
        ..Wishes::default()
    })
    .await;
    let _worker = site.worker().await;
    let admin = &site.admin;
    // Less than another worker takes, enough for this one and the doctor.
    let limit = match site.queue {
        QueueKind::Amqp(_) => 9,
        QueueKind::Postgres => 16,
    };
    superuser(
        &site,
        &format!(
            "SET ROLE {admin};
             DO $$ BEGIN FOR i IN 1..1000 LOOP
                 EXECUTE format('CREATE ROLE kc_many_%s', i);
             END LOOP; END $$;
             RESET ROLE;
             DO $$ BEGIN
                 EXECUTE (SELECT 'GRANT SELECT ON public.orders TO '
                              || string_agg('kc_many_' || i, ', ') FROM generate_series(1, 500) i);
             END $$;
             ALTER ROLE {admin} CONNECTION LIMIT {limit}"
        ),
    )
    .await;
    let said = Said::by(&site);
    assert_eq!(said.code, Some(0), "{:#?}", said.checks);
    said.says(
        "databases.app.grants",
        "warning",
        "public.orders grants something to 500",
    );
    said.says(
        "databases.app.connections",
        "warning",
        "raise max_connections",
    );
    let memberships = if site.postgres.version >= 16 {
        ("warning", "the 1000 logins")
    } else {
        ("ok", "nothing grows")
    };
    said.says("databases.app.memberships", memberships.0, memberships.1);

    superuser(
        &site,
        &format!("ALTER ROLE {admin} SUPERUSER CONNECTION LIMIT -1"),
    )
    .await;
    let said = Said::by(&site);
    said.says("databases.app.superuser", "warning", "keycard setup-sql");
    said.says("databases.app.connections", "ok", "room for");
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ_and_ledgers_of_others_are_told() {
    let site = Site::usual().await;
    let _worker = site.worker().await;
    let library = format!(
        "/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1",
        std::env::consts::ARCH
    );
    for (ahead, status, seconds) in [("+2m", "warning", 120.0), ("-10m", "failure", 600.0)] {
        let mut elsewhen = doctor(&site);
        elsewhen.env("LD_PRELOAD", &library).env("FAKETIME", ahead);
        elsewhen.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let said = Said::of(&mut elsewhen);
        let (is, seen, _) = said.about("databases.app.clock")[0];
        let differ: f64 = seen.rsplit(' ').nth(1).unwrap().parse().unwrap();
        // Less by as long as asking took, which explains as much.
        assert!(
            is == status && differ <= seconds && differ > seconds / 2.0,
            "{seen}"
        );
        // The database's clock decides.
        said.says("roles.app-role", "ok", "dropped");
    }

    let mut other = doctor(&site);
    let said = Said::of(other.env("KEYCARD_INSTALLATION", "another"));
    assert_eq!(said.code, Some(1));
    said.says("databases.app.ledger", "failure", "belongs elsewhere");
    said.says("roles.app-role", "warning", "not rehearsed");
    assert_nothing_is_left(&site).await;
}
