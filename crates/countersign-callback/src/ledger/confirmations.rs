//! What consumers said of a message, and which messages lack a confirm.

use std::collections::BTreeMap;

use countersign_protocol::check::MAX_CONSUMERS;
use countersign_protocol::{Attempt, MessageId, Name};
use uuid::Uuid;

use super::Ledger;
use super::columns::{Id, Ids, Text, Time, stored_attempt};
use crate::rules::filter;
use crate::rules::overdue::{Key, Report, UNITES};

/// A message, and the consumers whose confirms its upstream expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The message of its upstream.
    pub(crate) key: Key,
    /// The consumers that have to confirm the message: one or more, each once.
    pub(crate) consumers: Vec<Name>,
}

impl Ledger {
    /// Records that these consumers have processed these messages, each with the publish of the message
    /// that the consumer had in hand, if the consumer said. A confirm that is recorded already stays as
    /// it is. Returns how many are new.
    ///
    /// # Errors
    /// When nothing was recorded.
    pub(crate) async fn confirm(
        &self,
        confirmations: &BTreeMap<(MessageId, Name), Option<Attempt>>,
    ) -> Result<u64, sqlx::Error> {
        if confirmations.is_empty() {
            return Ok(0);
        }
        let ids: Vec<Uuid> = confirmations.keys().map(|(id, _)| id.uuid()).collect();
        let consumers: Vec<&str> = confirmations.keys().map(|(_, name)| name.as_str()).collect();
        let attempts: Vec<Option<i32>> =
            confirmations.values().map(|attempt| stored_attempt(*attempt)).collect();
        let recorded = sqlx::query(
            "-- confirm
             INSERT INTO confirmation (message_id, consumer, attempt)
             SELECT message_id, consumer, attempt
             FROM UNNEST($1::uuid[], $2::text[], $3::integer[])
                 AS entry (message_id, consumer, attempt)
             ON CONFLICT DO NOTHING",
        )
        .bind(ids)
        .bind(consumers)
        .bind(attempts)
        .execute(&self.pool)
        .await?;
        Ok(recorded.rows_affected())
    }

    /// Records what consumers said instead of a confirm: one report for each message and consumer.
    ///
    /// # Errors
    /// When nothing was recorded.
    pub(crate) async fn report(
        &self,
        reports: &BTreeMap<(MessageId, Name), Report>,
    ) -> Result<(), sqlx::Error> {
        if reports.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = reports.keys().map(|(id, _)| id.uuid()).collect();
        let consumers: Vec<&str> = reports.values().map(|r| r.consumer.as_str()).collect();
        let outcomes: Vec<&str> = reports.values().map(|r| r.word.into()).collect();
        let reasons: Vec<&str> = reports.values().map(|r| r.reason.as_str()).collect();
        let untils: Vec<Option<Time>> =
            reports.values().map(|r| r.word.until().map(Time)).collect();
        sqlx::query(
            "-- report
             INSERT INTO consumer_report (message_id, consumer, outcome, reason, until)
             SELECT message_id, consumer, outcome, reason, until
             FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
                 AS entry (message_id, consumer, outcome, reason, until)
             ON CONFLICT (message_id, consumer) DO UPDATE
             SET outcome = excluded.outcome, reason = excluded.reason, until = excluded.until,
                 recorded_at = excluded.recorded_at
             WHERE consumer_report.outcome = 'retrying'",
        )
        .bind(ids)
        .bind(consumers)
        .bind(outcomes)
        .bind(reasons)
        .bind(untils)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Of these messages, those that lack confirms, with the consumers whose confirms they lack.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn unconfirmed<'a>(
        &self,
        messages: impl Iterator<Item = &'a Expected> + Clone,
    ) -> Result<BTreeMap<MessageId, Vec<Name>>, sqlx::Error> {
        let Some(ids) = Ids::of(messages.clone().map(|message| message.key.message_id)) else {
            return Ok(BTreeMap::new());
        };
        let expected = || {
            let pairs = |message: &'a Expected| {
                message.consumers.iter().map(|name| (message.key.message_id, name))
            };
            messages.clone().flat_map(pairs)
        };
        let expected_ids: Vec<Uuid> = expected().map(|(id, _)| id.uuid()).collect();
        let consumers: Vec<&str> = expected().map(|(_, name)| name.as_str()).collect();
        // EXCEPT is always hashed or sorted. An anti-join is estimated at a few rows when the plan
        // is a generic one, and then compares everything with everything.
        let missing: Vec<(Id, Text<Name>)> = sqlx::query_as(
            "-- unconfirmed
             SELECT message_id, consumer
             FROM UNNEST($4::uuid[], $5::text[]) AS expected (message_id, consumer)
             EXCEPT
             SELECT message_id, consumer FROM confirmation
             WHERE message_id BETWEEN $1 AND $2 AND message_id = ANY($3)",
        )
        .bind(ids.first)
        .bind(ids.last)
        .bind(ids.all)
        .bind(expected_ids)
        .bind(consumers)
        .fetch_all(&self.pool)
        .await?;
        let mut unconfirmed: BTreeMap<MessageId, Vec<Name>> = BTreeMap::new();
        for (Id(id), Text(consumer)) in missing {
            unconfirmed.entry(id).or_default().push(consumer);
        }
        unconfirmed.values_mut().for_each(|names| names.sort_unstable());
        Ok(unconfirmed)
    }

    /// Of these messages, those that lack a confirm of a consumer which no overdue row of this upstream
    /// waits for. A row that a further check cannot change speaks for all consumers: an operator or the
    /// upstream has decided, or the row names as many as it can.
    ///
    /// One statement, so that a check that is noted meanwhile is seen whole or not at all.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn forgotten(
        &self,
        upstream: &Name,
        messages: &[Expected],
    ) -> Result<Vec<MessageId>, sqlx::Error> {
        let Some(ids) = Ids::of(messages.iter().map(|message| message.key.message_id)) else {
            return Ok(Vec::new());
        };
        let (mut expected, mut names) = (Vec::new(), Vec::new());
        for Expected { key, consumers } in messages {
            for consumer in consumers {
                expected.push(key.message_id.uuid());
                names.push(consumer.as_str());
            }
        }
        let forgotten: Vec<Id> = sqlx::query_scalar(
            "-- forgotten
             WITH known AS (
                 SELECT message_id, consumers,
                        state = ANY($7) AND cardinality(consumers) < $8 AS is_open_to_more
                 FROM overdue
                 WHERE message_id BETWEEN $1 AND $2 AND message_id = ANY($3) AND upstream = $6
             )
             SELECT message_id FROM (
                 SELECT message_id, consumer
                 FROM UNNEST($4::uuid[], $5::text[]) AS expected (message_id, consumer)
                 EXCEPT
                 SELECT message_id, consumer FROM confirmation
                 WHERE message_id BETWEEN $1 AND $2 AND message_id = ANY($3)
                 EXCEPT
                 SELECT message_id, UNNEST(consumers) FROM known
             ) AS missing
             EXCEPT
             SELECT message_id FROM known WHERE NOT is_open_to_more
             ORDER BY message_id",
        )
        .bind(ids.first)
        .bind(ids.last)
        .bind(ids.all)
        .bind(expected)
        .bind(names)
        .bind(upstream.as_str())
        .bind(filter::texts(&UNITES))
        .bind(i32::try_from(MAX_CONSUMERS).unwrap_or(i32::MAX))
        .fetch_all(self.pool())
        .await?;
        Ok(forgotten.into_iter().map(|Id(id)| id).collect())
    }
}
