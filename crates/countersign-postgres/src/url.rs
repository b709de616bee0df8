//! The address of a database.

use std::fmt;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;
use thiserror::Error;

/// The address of a Postgres database, such as `postgres://user:password@host:5432/orders`.
///
/// Its options: <https://docs.rs/sqlx/0.9/sqlx/postgres/struct.PgConnectOptions.html>. Without
/// `sslmode` the client speaks plain text when Postgres refuses TLS: write `?sslmode=verify-full`
/// where the network is not yours. `Display` and `Debug` leave the password out.
#[derive(Clone)]
pub struct DatabaseUrl(PgConnectOptions);

/// Why a text is not the address of a Postgres database. The error does not repeat the text, which
/// may hold a password.
#[derive(Debug, Error)]
#[error("not a database address: {0}; use postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
pub struct InvalidDatabaseUrl(String);

impl DatabaseUrl {
    pub(crate) fn options(&self) -> PgConnectOptions {
        self.0.clone()
    }
}

impl FromStr for DatabaseUrl {
    type Err = InvalidDatabaseUrl;

    fn from_str(text: &str) -> Result<Self, InvalidDatabaseUrl> {
        if !(text.starts_with("postgres://") || text.starts_with("postgresql://")) {
            return Err(InvalidDatabaseUrl("it does not begin with postgres://".to_owned()));
        }
        text.parse().map(Self).map_err(|e: sqlx::Error| InvalidDatabaseUrl(e.to_string()))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, host, port) = (self.0.get_username(), self.0.get_host(), self.0.get_port());
        write!(f, "postgres://{user}@{host}:{port}/")?;
        f.write_str(self.0.get_database().unwrap_or(user))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_never_shown() {
        let url: DatabaseUrl = "postgres://ann:s3cret@db.example:6432/orders".parse().unwrap();
        assert_eq!(url.to_string(), "postgres://ann@db.example:6432/orders");
        assert_eq!(format!("{url:?}"), "postgres://ann@db.example:6432/orders");
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for text in ["mysql://ann:s3cret@db/x", "s3cret", "postgres://ann:s3cret@db:notaport/x"] {
            let error = text.parse::<DatabaseUrl>().unwrap_err().to_string();
            assert!(error.contains("postgres://USER"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
