//! The meaning of a database error for its caller.

use sqlx::postgres::PgDatabaseError;

/// How a caller should treat a database error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The same statement may well work later or on another connection: the connection was lost,
    /// the server restarts or has become read-only, a deadlock, a serialization failure, no free
    /// connection, a lock or statement timeout.
    Again,
    /// The data is at fault: a value out of range, a violated constraint, a NUL in a text. The same
    /// data fails again.
    Data,
    /// Any other fault: a missing table, a missing right, a mistake in the statement.
    Other,
}

/// The kind of trouble that a database error means, by its SQLSTATE class:
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
#[must_use]
pub fn trouble(error: &sqlx::Error) -> Trouble {
    use sqlx::Error as E;
    match error {
        E::Database(error) => error.code().map_or(Trouble::Other, |code| trouble_of_code(&code)),
        E::Io(_)
        | E::Tls(_)
        | E::PoolTimedOut
        | E::PoolClosed
        | E::WorkerCrashed
        | E::BeginFailed => Trouble::Again,
        E::Encode(_) | E::ColumnDecode { .. } | E::Decode(_) => Trouble::Data,
        _ => Trouble::Other,
    }
}

fn trouble_of_code(code: &str) -> Trouble {
    match code {
        // read_only_sql_transaction: after a failover the connection may lead to a standby.
        "25006" => Trouble::Again,
        // serialization_failure, statement_completion_unknown, deadlock_detected
        "40001" | "40003" | "40P01" => Trouble::Again,
        // lock_not_available, query_canceled
        "55P03" | "57014" => Trouble::Again,
        // idle_in_transaction_session_timeout, transaction_timeout, idle_session_timeout
        "25P03" | "25P04" | "57P05" => Trouble::Again,
        _ => match code.get(..2) {
            // connection exceptions, insufficient resources, system errors
            Some("08" | "53" | "58") => Trouble::Again,
            Some("57") if code.starts_with("57P") => Trouble::Again,
            Some("22" | "23") => Trouble::Data,
            _ => Trouble::Other,
        },
    }
}

/// The SQLSTATE, if the server sent one.
#[must_use]
pub fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.to_string())
}

/// Whether a unique key of this table (`schema.table`), or of one of its partitions, was violated.
///
/// A partitioned table tells "this id is here already" this way, in the same round trip as the
/// `BEGIN` (see [`Transaction::open`](crate::Transaction::open)).
#[must_use]
pub fn is_duplicate_key(error: &sqlx::Error, table: &str) -> bool {
    let Some(error) = postgres_error(error) else { return false };
    let (schema, name) = schema_and_name(table);
    let is_this_or_a_partition = error.table().is_some_and(|found| {
        found == name || found.strip_prefix(name).is_some_and(|rest| rest.starts_with("_p"))
    });
    error.code() == "23505" && error.schema() == Some(schema) && is_this_or_a_partition
}

/// Whether a row was refused because this table (`schema.table`) has no partition for it.
#[must_use]
pub fn is_without_partition(error: &sqlx::Error, table: &str) -> bool {
    let Some(error) = postgres_error(error) else { return false };
    let (schema, name) = schema_and_name(table);
    // `check_violation` without a constraint's name: Postgres has no code of its own for it.
    error.code() == "23514"
        && error.constraint().is_none()
        && error.schema() == Some(schema)
        && error.table() == Some(name)
}

fn postgres_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

fn schema_and_name(table: &str) -> (&str, &str) {
    table.split_once('.').unwrap_or(("public", table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_error_is_told_apart() {
        for (codes, expected) in [
            (
                "25006 57P01 57P02 57P03 08006 08001 40001 40P01 53300 55P03 57014 58030 25P03",
                Trouble::Again,
            ),
            ("22021 22001 23505 23514 23503", Trouble::Data),
            ("42P01 42601 25P02 28P01 0A000", Trouble::Other),
        ] {
            for code in codes.split(' ') {
                assert_eq!(trouble_of_code(code), expected, "{code}");
            }
        }
        assert_eq!(trouble(&sqlx::Error::PoolTimedOut), Trouble::Again);
        assert_eq!(trouble(&sqlx::Error::RowNotFound), Trouble::Other);
    }
}
