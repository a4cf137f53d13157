//! What a Postgres error means, read from its SQLSTATE and never from its text.

use tokio_postgres::error::SqlState;

use crate::fault::Disposition;

/// Whether the same statements may succeed later.
#[must_use]
pub fn disposition(error: &tokio_postgres::Error) -> Disposition {
    let Some(code) = error.code() else {
        // No SQLSTATE: the connection broke, or was never made.
        return Disposition::Retry;
    };
    match &code.code()[..2] {
        // Connection, transaction rollback (deadlock, serialisation), resources, operator
        // intervention (shutdown, statement_timeout), system errors; internal errors are how
        // Postgres reports tuples "concurrently updated" or "deleted". lock_timeout and objects in
        // use; authorisation, as credentials are mended and read again.
        "08" | "40" | "53" | "57" | "58" | "XX" | "55" | "28" => Disposition::Retry,
        _ if *code == SqlState::READ_ONLY_SQL_TRANSACTION
            || *code == SqlState::UNIQUE_VIOLATION =>
        {
            Disposition::Retry
        }
        _ => Disposition::Reject,
    }
}

/// Whether a statement was stopped by what somebody does with the login at this moment: a lock, a
/// time-out, a concurrent change. Any session can cause that, and for as long as it likes, a prepared
/// transaction of the login's own too. So a drop that is stopped so must not be all that is tried, as
/// the login can still be disabled; and if that is stopped as well, the failure must be counted.
pub(super) fn concerns_the_login(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        *code == SqlState::QUERY_CANCELED
            || code.code().starts_with("55")
            || code.code().starts_with("XX")
    })
}

/// Whether statements that somebody else wrote failed by their own fault: their author must mend
/// them, and trying again would fail again.
pub(super) fn is_statements_fault(error: &tokio_postgres::Error) -> bool {
    let by_statement = error.code().is_some_and(|code| {
        may_have_raced(error)
            || *code == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
            || code.code().starts_with("28")
    });
    by_statement || disposition(error) == Disposition::Reject
}

/// Whether somebody else may have made the same thing at the same moment.
pub(super) fn may_have_raced(error: &tokio_postgres::Error) -> bool {
    [SqlState::UNIQUE_VIOLATION, SqlState::DUPLICATE_OBJECT]
        .iter()
        .any(|code| error.code() == Some(code))
}

/// One line that holds no statement, no parameter and no detail, as those may hold a verifier. The
/// message itself is kept only for conditions whose messages name nothing but database objects.
#[must_use]
pub fn describe(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        return text;
    };
    let code = db.code();
    let names_objects_only = [
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::DEPENDENT_OBJECTS_STILL_EXIST,
        SqlState::UNDEFINED_OBJECT,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::INVALID_CATALOG_NAME,
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::DISK_FULL,
    ];
    // A function may raise any of these with any text.
    if names_objects_only.contains(code) && !db.message().contains("SCRAM-SHA-256") {
        format!("{} (SQLSTATE {})", db.message(), code.code())
    } else {
        format!("SQLSTATE {}, the server's log says more", code.code())
    }
}
