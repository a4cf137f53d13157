//! Statements whose placeholders stand in every kind of quotes: what Postgres executes is exactly
//! the one literal or identifier.

use serde_json::{Value, json};

use crate::support::site::{Site, Wishes};

/// SQL expressions over the login's name, and what each is, with `NAME` for it.
const EXPRESSIONS: [(&str, &str); 10] = [
    ("'{{name}}'", "NAME"),
    ("E'\\\\{{name}}\\''", "\\NAME'"),
    ("$${{name}}$$", "NAME"),
    ("$q$''{{username}}''$q$", "''NAME''"),
    ("$name$$${{name}}$$$name$", "$$NAME$$"),
    ("U&'\\0041{{name}}'", "ANAME"),
    (
        "'''{{name}}''; DROP SCHEMA keycard; --'",
        "'NAME'; DROP SCHEMA keycard; --",
    ),
    ("'{{ {{name}} }}'", "{{ NAME }}"),
    ("'{{{name}}}{{1,2}}'", "{NAME}{{1,2}}"),
    ("format('%s%%%L', '{{name}}', '{{name}}')", "NAME%'NAME'"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_placeholder_is_one_literal_in_every_kind_of_quotes() {
    let values: Vec<String> = EXPRESSIONS.map(|(sql, _)| format!("({sql})")).into();
    let statements = [
        // In a body between dollars, where the verifier's own dollars end nothing.
        r#"DO $$ BEGIN CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}'; END $$"#.to_owned(),
        format!(
            "INSERT INTO public.seen (value, expiration, strings)
             SELECT v, '{{{{expiration}}}}', current_setting('standard_conforming_strings')
             FROM (VALUES {}) AS t (v)",
            values.join(", ")
        ),
    ];
    let section = |name: &str, statements: Value| {
        format!(
            "\n[roles.{name}]\ndatabase = \"app\"\nrequesters = [\"orders-svc\"]\n\
             creation_statements = {statements}\n"
        )
    };
    let array = section("array", json!(statements));
    let site = Site::new(Wishes {
        sections: array + &section("script", json!(statements.join(";\n"))),
        ..Wishes::default()
    })
    .await;
    let sql = site.sql().await;
    sql.batch_execute(&format!(
        "CREATE TABLE public.seen (number int GENERATED ALWAYS AS IDENTITY, value text,
                                   expiration text, strings text);
         GRANT INSERT ON public.seen TO {}",
        site.admin
    ))
    .await
    .unwrap();
    let _worker = site.worker().await;
    let orders = site.client("orders-svc").await;
    for role in ["array", "script"] {
        let issued = orders.issued(role, None).await;
        let username = issued["username"].as_str().unwrap();
        let seen = sql
            .query(
                "DELETE FROM public.seen RETURNING number, value, expiration, strings",
                &[],
            )
            .await
            .unwrap();
        let mut seen: Vec<_> = seen.iter().collect();
        seen.sort_by_key(|row| row.get::<_, i32>(0));
        assert_eq!(seen.len(), EXPRESSIONS.len());
        for (row, (sql, value)) in seen.into_iter().zip(EXPRESSIONS) {
            assert_eq!(
                row.get::<_, &str>(1),
                value.replace("NAME", username),
                "{role}: {sql}"
            );
            assert_eq!(row.get::<_, &str>(2), issued["expires_at"]);
            assert_eq!(row.get::<_, &str>(3), "on");
        }
        site.assert_credentials_work([&issued]).await;
    }
}
