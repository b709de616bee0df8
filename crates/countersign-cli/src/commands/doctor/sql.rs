//! Reading databases: all SQL of this program.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_postgres::{DatabaseUrl, connect_once};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};
use time::Date;
use time::macros::format_description;

use super::clocks::Clock;
use super::database::{Database, Owner, Part, Table};
use crate::terminal::clock::now_ms;

/// Each part of Countersign, its partitioned tables (the first one shows that the part is there), and the
/// table of its migrations.
const PARTS: [(Owner, &[&str], &str); 3] = [
    (Owner::Callback, &["confirmation", "consumer_report"], "_sqlx_migrations"),
    (Owner::Upstream, &["countersign.enlisted"], "countersign._producer_migrations"),
    (Owner::Consumer, &["countersign.inbox"], "countersign._consumer_migrations"),
];

/// How long a database may take to be read: it has a dozen small statements to answer.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// Reads a database and its clock.
///
/// # Errors
/// When the database does not answer in time, or refuses the login.
pub(crate) async fn read(url: &DatabaseUrl) -> Result<(Database, Clock), sqlx::Error> {
    let silent = || {
        let why = format!("the database did not answer within {} s", READ_WITHIN.as_secs());
        Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, why)))
    };
    tokio::time::timeout(READ_WITHIN, look(url)).await.unwrap_or_else(|_| silent())
}

async fn look(url: &DatabaseUrl) -> Result<(Database, Clock), sqlx::Error> {
    let mut connection = connect_once(url, "countersign doctor").await?;
    // The first statement of a connection takes longer, and would make the clock seem late.
    connection.ping().await?;
    let before_ms = now_ms();
    let (now, read_only) = clock(&mut connection).await?;
    let after_ms = now_ms();
    let mut database =
        Database { name: url.to_string(), now_ms: now, read_only, parts: Vec::new() };
    for (of, tables, migrations) in PARTS {
        if !exists(&mut connection, tables[0]).await? {
            continue;
        }
        let mut part = Part { of, known: known(of), ..Part::default() };
        if exists(&mut connection, migrations).await? {
            part.applied = applied(&mut connection, migrations).await?;
        }
        for table in tables {
            part.tables.push(partitions(&mut connection, table).await?);
        }
        database.parts.push(part);
    }
    // The database notices a closed socket as well.
    let _ = connection.close().await;
    let clock = Clock {
        whose: format!("the clock of {url}"),
        ahead_ms: now - i64::midpoint(before_ms, after_ms),
        unsure_ms: (after_ms - before_ms) / 2 + 1,
    };
    Ok((database, clock))
}

/// The versions of the migrations that this program knows.
fn known(of: Owner) -> Vec<i64> {
    let migrations = match of {
        Owner::Callback => sqlx::migrate!("../../migrations/callback"),
        Owner::Upstream => sqlx::migrate!("../../migrations/producer"),
        Owner::Consumer => sqlx::migrate!("../../migrations/consumer"),
    };
    migrations.iter().map(|migration| migration.version).collect()
}

async fn clock(connection: &mut PgConnection) -> Result<(i64, bool), sqlx::Error> {
    let row = sqlx::query(
        "-- doctor_clock
         SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
                pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'",
    )
    .fetch_one(connection)
    .await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

async fn exists(connection: &mut PgConnection, table: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("-- doctor_exists\nSELECT to_regclass($1) IS NOT NULL")
        .bind(table)
        .fetch_one(connection)
        .await
}

async fn applied(
    connection: &mut PgConnection,
    migrations: &'static str,
) -> Result<Vec<(i64, bool)>, sqlx::Error> {
    let sql =
        format!("-- doctor_migrations\nSELECT version, success FROM {migrations} ORDER BY version");
    sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(connection).await
}

async fn partitions(connection: &mut PgConnection, table: &str) -> Result<Table, sqlx::Error> {
    let rows = sqlx::query(
        "-- doctor_partitions
         SELECT relname::text, pg_get_expr(relpartbound, pg_class.oid) = 'DEFAULT'
         FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
         WHERE inhparent = $1::regclass",
    )
    .bind(table)
    .fetch_all(connection)
    .await?;
    let mut found = Table { name: table.to_owned(), days_ms: BTreeSet::new(), has_default: false };
    for row in rows {
        let name: String = row.try_get(0)?;
        found.has_default |= row.try_get::<bool, _>(1)?;
        found.days_ms.extend(name.rsplit_once("_p").and_then(|(_, digits)| day_ms(digits)));
    }
    Ok(found)
}

/// The first millisecond of the day that a partition is named after: `20261121`.
fn day_ms(digits: &str) -> Option<i64> {
    let date = Date::parse(digits, format_description!("[year][month][day]")).ok()?;
    Some(date.midnight().assume_utc().unix_timestamp() * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_named_after_its_day() {
        assert_eq!(day_ms("20261121"), Some(1_795_219_200_000));
        assert_eq!(day_ms("20261321"), None);
    }

    #[test]
    fn the_migrations_are_known() {
        for of in [Owner::Callback, Owner::Upstream, Owner::Consumer] {
            assert_eq!(known(of).first(), Some(&1), "{of:?}");
        }
    }
}
