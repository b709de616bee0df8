//! Bounded calls for sqlx's functions: to them, `&Database` and `&mut Transaction` are what `&PgPool`
//! and `&mut PgConnection` are.
//!
//! A stream of rows begins when all rows are there: a caller that reads them slowly must not use up the
//! time of the server.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Error, Execute, Executor, Postgres, SqlStr};
use tokio::time::timeout;

use crate::database::Database;
use crate::lease::Lease;
use crate::transaction::Transaction;

type Step = Either<PgQueryResult, PgRow>;

impl Lease {
    async fn steps<'q>(
        &mut self,
        limit: Duration,
        query: impl Execute<'q, Postgres> + 'q,
    ) -> Result<Vec<Step>, Error> {
        let steps = self.connection()?.fetch_many(query).try_collect();
        let answer = timeout(limit, steps).await;
        self.answered(answer)
    }

    async fn one_row<'q>(
        &mut self,
        limit: Duration,
        query: impl Execute<'q, Postgres> + 'q,
    ) -> Result<Option<PgRow>, Error> {
        let row = self.connection()?.fetch_optional(query);
        let answer = timeout(limit, row).await;
        self.answered(answer)
    }

    async fn prepared(
        &mut self,
        limit: Duration,
        sql: SqlStr,
        parameters: &[PgTypeInfo],
    ) -> Result<PgStatement, Error> {
        let statement = self.connection()?.prepare_with(sql, parameters);
        let answer = timeout(limit, statement).await;
        self.answered(answer)
    }

    async fn described(
        &mut self,
        limit: Duration,
        sql: SqlStr,
    ) -> Result<Describe<Postgres>, Error> {
        let description = self.connection()?.describe(sql);
        let answer = timeout(limit, description).await;
        self.answered(answer)
    }
}

fn stream<'e>(
    steps: impl Future<Output = Result<Vec<Step>, Error>> + Send + 'e,
) -> BoxStream<'e, Result<Step, Error>> {
    stream::once(steps).map_ok(|steps| stream::iter(steps).map(Ok)).try_flatten().boxed()
}

impl<'c> Executor<'c> for &'c Database {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Step, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        stream(async move { Lease::take(self.pool()).await?.steps(self.limit(), query).await })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move { Lease::take(self.pool()).await?.one_row(self.limit(), query).await })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            Lease::take(self.pool()).await?.prepared(self.limit(), sql, parameters).await
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { Lease::take(self.pool()).await?.described(self.limit(), sql).await })
    }
}

impl<'c> Executor<'c> for &'c mut Transaction {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Step, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        stream(async move { self.lease.steps(self.limit, query).await })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move { self.lease.one_row(self.limit, query).await })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.lease.prepared(self.limit, sql, parameters).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.lease.described(self.limit, sql).await })
    }
}
