//! Connections to databases: users and passwords, TLS, limits.

use super::super::*;
use super::connecting;
use super::{README, parse};

#[test]
fn users_and_passwords_reach_postgres_as_they_are() {
    let urls = [
        "postgresql://{{username}}:{{password}}@db.example.com:5432/mydb",
        "postgres://{{ username }}:{{ password }}@a,b:5433/mydb?connect_timeout=3",
        "postgres://db/mydb?user={{username}}&password={{password}}",
        "postgres://db/mydb",
        "host=db user={{username}} password={{password}} dbname=mydb",
        "host=db user = '{{username}}' password = '{{password}}' dbname='mydb'",
    ];
    let hostile = [
        "{0}",
        "a:b",
        "/",
        "@",
        "\"",
        "'",
        "\\",
        " a b ",
        "%41",
        "?&#=",
        "ä",
        "{{username}}",
        "\n",
    ];
    for url in urls {
        let mut settings = connecting(url).unwrap().connection();
        assert_eq!(settings.get_user(), Some("vaultadmin"), "{url}");
        assert_eq!(settings.get_dbname(), Some("mydb"), "{url}");
        for password in hostile {
            settings.password(password);
            assert_eq!(settings.get_password(), Some(password.as_bytes()), "{url}");
        }
    }
    for user in hostile.iter().filter(|user| **user != "\n") {
        let text = README.replace("\"vaultadmin\"", &format!("'''{user}'''"));
        assert_eq!(
            parse(&text).unwrap().databases["my-postgres-db"].user(),
            *user
        );
    }
}

#[test]
fn connections_are_bounded_and_look_for_the_primary() {
    let url = "postgres://{{username}}:{{password}}@a,b:5433/d?options=-c%20statement_timeout%3D1s\
               %20-c%20search_path%3Dx&target_session_attrs=any&tcp_user_timeout=5000&keepalives_count=9";
    let settings = connecting(url).unwrap().connection();
    assert_eq!(
        settings.get_options().unwrap(),
        "-c statement_timeout=10000 -c lock_timeout=5000 \
         -c idle_in_transaction_session_timeout=30000 \
         -c statement_timeout=1s -c search_path=x \
         -c search_path=pg_catalog,pg_temp -c timezone=UTC -c client_min_messages=warning"
    );
    assert_eq!(settings.get_application_name(), Some("keycard"));
    assert_eq!(
        settings.get_connect_timeout(),
        Some(&Duration::from_secs(5))
    );
    assert_eq!(
        settings.get_tcp_user_timeout(),
        Some(&Duration::from_secs(5))
    );
    assert_eq!(settings.get_keepalives_retries(), Some(9));
    assert_eq!(settings.get_keepalives_idle(), Duration::from_secs(30));
    let attributes = settings.get_target_session_attrs();
    assert_eq!(
        attributes,
        tokio_postgres::config::TargetSessionAttrs::ReadWrite
    );
}

#[test]
fn nothing_crosses_a_network_in_clear_by_default() {
    for (address, mode) in [
        ("db.example.com", TlsMode::VerifyFull),
        ("10.0.0.1", TlsMode::VerifyFull),
        ("localhost,db.example.com", TlsMode::VerifyFull),
        ("localhost", TlsMode::Disable),
        ("127.0.0.2", TlsMode::Disable),
        ("[::1]:5433", TlsMode::Disable),
        ("%2Frun%2Fpostgresql", TlsMode::Disable),
        ("%2Frun%2Fpostgresql,b", TlsMode::VerifyFull),
    ] {
        assert_eq!(
            connecting(&format!("postgres://{address}/d")).unwrap().tls,
            mode,
            "{address}"
        );
    }
    let remote = connecting("host=localhost hostaddr=10.0.0.1 dbname=d").unwrap();
    assert_eq!(remote.tls, TlsMode::VerifyFull);
    let socket = connecting("host=/run dbname=d sslmode=verify-full").unwrap();
    assert_eq!(socket.tls, TlsMode::Disable);
    for (options, mode, required) in [
        ("sslmode=disable", TlsMode::Disable, false),
        ("sslmode=verify-full", TlsMode::VerifyFull, true),
        (
            "sslmode=verify-full&sslrootcert=system",
            TlsMode::VerifyFull,
            true,
        ),
        ("sslrootcert=/ca", TlsMode::VerifyFull, true),
    ] {
        let database = connecting(&format!("postgres://localhost/d?{options}")).unwrap();
        assert_eq!(database.tls, mode, "{options}");
        assert_eq!(
            database.ca_file.is_some(),
            options.ends_with("/ca"),
            "{options}"
        );
        let ssl_mode = database.connection().get_ssl_mode();
        assert_eq!(
            ssl_mode == tokio_postgres::config::SslMode::Require,
            required,
            "{options}"
        );
    }
}

#[test]
fn faults_of_a_connection_are_told() {
    for (url, problem) in [
        ("postgres://u:p@h/d", "holds a password"),
        ("postgres://other:{{password}}@h/d", "names another user"),
        ("postgres:///d", "names no host"),
        ("postgres://h", "names no database"),
        ("postgres://a,,b/d", "a host without a name"),
        ("host=a,b port=1,2,3 dbname=d", "more ports than hosts"),
        ("postgres://h:99999/d", "invalid value for option `port`"),
        (
            "postgres://h/d?sslmode=require",
            "does not verify which server",
        ),
        ("postgres://h/d?sslmode=full", "keycard does not know"),
        (
            "postgres://h/d?sslmode=disable&sslrootcert=/ca",
            "disables TLS",
        ),
        (
            "postgres://h/d?target_session_attrs=read-only",
            "cannot be written to",
        ),
        (
            "postgres://h/d?keepalives_count=x",
            "invalid keepalives_count",
        ),
        ("mysql://h/d", "is no URL of Postgres"),
    ] {
        let errors = connecting(url).unwrap_err();
        assert_eq!(errors.problems().len(), 1, "{url}: {errors}");
        let line = errors.to_string();
        assert!(
            line.starts_with("databases.my-postgres-db.connection_url: "),
            "{line}"
        );
        assert!(line.contains(problem), "{line}");
    }
}
