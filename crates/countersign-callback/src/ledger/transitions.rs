//! Writes what becomes of rows: the rows, their history, and what hangs on them, in one statement.

use countersign_postgres::Transaction;
use uuid::Uuid;

use super::columns::{Time, stored_count};
use crate::rules::job::ItemState;
use crate::rules::overdue::{Key, Transition};
use crate::rules::states::StateName;

/// The transitions as rows: each array has one element for each of them.
macro_rules! transitions {
    () => {
        "-- write
         WITH transition AS (
             SELECT * FROM UNNEST(
                 $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::integer[],
                 $7::integer[], $8::timestamptz[], $9::uuid[], $10::text[], $11::timestamptz[],
                 $12::timestamptz[],
                 $13::boolean[], $14::boolean[], $15::text[], $16::text[], $17::text[]
             ) AS transition (
                 message_id, upstream, from_state, to_state, reason, resends, calls_not_made,
                 due_at, lease, cause, missing_after, sent_at, closes, leaves_history, item_state, item_result, parked_with
             )
         )"
    };
}

/// The locked rows get their new state. A time that does not change is kept.
macro_rules! rows {
    () => {
        ", written AS (
             UPDATE overdue
             SET state = transition.to_state, cause = transition.cause, reason = transition.reason,
                 resends = transition.resends, calls_not_made = transition.calls_not_made,
                 lease = transition.lease, due_at = transition.due_at,
                 missing_after = coalesce(transition.missing_after, overdue.missing_after),
                 sent_at = coalesce(transition.sent_at, overdue.sent_at),
                 closed_at = CASE WHEN transition.closes THEN now() END,
                 parked_at = CASE WHEN transition.parked_with IS NOT NULL THEN now() END,
                 confirmed = coalesce(string_to_array(transition.parked_with, ','), overdue.confirmed)
             FROM transition
             WHERE overdue.message_id = transition.message_id
               AND overdue.upstream = transition.upstream
         )"
    };
}

/// The items of jobs that wait for these rows end with them: no job has to look for its items. The
/// state is spelled, not bound: the planner takes the partial index `job_item_begun` only for a constant.
macro_rules! job_items {
    () => {
        ", item AS (
             UPDATE job_item
             SET state = transition.item_state, result = transition.item_result, ended_at = now()
             FROM transition
             WHERE job_item.message_id = transition.message_id
               AND job_item.upstream = transition.upstream
               AND job_item.state = 'begun' AND transition.item_state IS NOT NULL
         )"
    };
}

/// A deferral leaves nothing in the history. Every other transition does, so that the constraint of the
/// history refuses one that is no step, and the row with it.
macro_rules! history {
    () => {
        "
         INSERT INTO overdue_event
             (message_id, upstream, from_state, to_state, cause, reason, resends)
         SELECT message_id, upstream, from_state, to_state, cause, reason, resends
         FROM transition WHERE leaves_history"
    };
}

/// Whether a transition is more than a deferral: a row that still waits. A row that is asked for anew
/// gets an entry for each call.
fn leaves_history(transition: &Transition) -> bool {
    let to = transition.to.name();
    transition.from != to || to == StateName::Asking
}

/// Writes the transitions of locked rows, in one round trip: what is decided about them is decided
/// by the rules before. `recorded` tells who has confirmed a message that is parked: its row keeps that.
pub(super) async fn write(
    transaction: &mut Transaction,
    transitions: &[Transition],
    recorded: impl Fn(&Key) -> Option<String>,
) -> Result<(), sqlx::Error> {
    fn column<T>(transitions: &[Transition], of: impl Fn(&Transition) -> T) -> Vec<T> {
        transitions.iter().map(of).collect()
    }
    let upstreams: Vec<&str> = transitions.iter().map(|t| t.key.upstream.as_str()).collect();
    let reasons: Vec<&str> = transitions.iter().map(|t| t.reason.as_str()).collect();
    let (item_states, item_results): (Vec<Option<&str>>, Vec<Option<String>>) = transitions
        .iter()
        .map(|t| ItemState::after(t).unzip())
        .map(|(s, r)| (s.map(<&str>::from), r))
        .unzip();
    let parked_with = |t: &Transition| {
        let is_parked = t.to.name() == StateName::Parked;
        is_parked.then(|| recorded(&t.key).unwrap_or_default())
    };
    sqlx::query(concat!(transitions!(), rows!(), job_items!(), history!()))
        .bind(column(transitions, |t| t.key.message_id.uuid()))
        .bind(upstreams)
        .bind(column(transitions, |t| <&str>::from(t.from)))
        .bind(column(transitions, |t| <&str>::from(t.to.name())))
        .bind(reasons)
        .bind(column(transitions, |t| stored_count(t.resends)))
        .bind(column(transitions, |t| stored_count(t.calls_not_made)))
        .bind(column(transitions, |t| t.to.due().map(Time)))
        .bind(column(transitions, |t| t.to.lease().map(|lease| lease.token)) as Vec<Option<Uuid>>)
        .bind(column(transitions, |t| <&str>::from(t.cause)))
        .bind(column(transitions, |t| t.missing_after.map(Time)))
        .bind(column(transitions, |t| t.sent_at.map(Time)))
        .bind(column(transitions, |t| t.to.name().facts().closed))
        .bind(column(transitions, leaves_history))
        .bind(item_states)
        .bind(item_results)
        .bind(column(transitions, parked_with))
        .execute(&mut *transaction)
        .await?;
    Ok(())
}
