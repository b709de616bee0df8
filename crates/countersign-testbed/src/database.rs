//! A database of the test's own on a Postgres server.

use anyhow::{Context as _, Result};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::postgres::{self, PostgresAddress};
use crate::sweeper;

/// An empty database; the sweeper drops it some time after the value.
#[derive(Debug)]
pub struct Database {
    name: String,
    url: String,
    server: PostgresAddress,
}

impl Database {
    /// Makes a database with a new name.
    ///
    /// # Errors
    /// If Postgres does not answer or refuses.
    pub async fn create(server: &PostgresAddress) -> Result<Self> {
        let name = format!("test_{:012x}", fastrand::u64(..1 << 48));
        postgres::run(server, &format!("CREATE DATABASE {name}")).await?;
        Ok(Self { url: server.url(&name), name, server: server.clone() })
    }

    /// The database's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The database's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A small pool of connections, for a look into the database from outside.
    ///
    /// # Errors
    /// If Postgres does not answer.
    pub async fn pool(&self) -> Result<PgPool> {
        PgPoolOptions::new()
            .max_connections(5)
            .connect(&self.url)
            .await
            .with_context(|| format!("no connection to database {}", self.name))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        sweeper::later(async move {
            postgres::run(&server, &format!("DROP DATABASE {name} WITH (FORCE)")).await
        });
    }
}
