//! What the ledger itself does not allow, whoever writes to it.

use countersign_callback::Service;
use countersign_protocol::{MessageId, UnixMillis};
use tokio_util::sync::CancellationToken;

use crate::stage::Stage;

const PAGE: &str = include_str!("../../../../docs/states.md");

/// A state as `docs/states.md` has it, which the unit tests compare with the code.
struct State {
    name: &'static str,
    is_open: bool,
    is_closed: bool,
}

fn states() -> Vec<State> {
    let row = |cells: Vec<&'static str>| State {
        name: cells[0],
        is_open: cells[2] == "yes",
        is_closed: cells[5] == "yes",
    };
    let head = "| state | meaning | open | unresolved | heeds consumers | closed |";
    rows(head).map(row).collect()
}

/// The rows of the table with this head.
fn rows(head: &str) -> impl Iterator<Item = Vec<&'static str>> {
    let (_, table) = PAGE.split_once(head).unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|line| {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().trim_matches('`')).collect()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_has_exactly_what_belongs_to_its_state() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    for State { name: state, is_open, is_closed } in states() {
        for has in 0..8_u8 {
            let (due, lease, closed) = (has & 1 != 0, has & 2 != 0, has & 4 != 0);
            let row = sqlx::query(
                "INSERT INTO overdue (message_id, upstream, consumers, state, cause, reason, resends,
                                      due_at, lease, closed_at)
                 VALUES ($1, 'orders', '{logistics}', $2, '', '', 1,
                         CASE WHEN $3 THEN now() + '1 day' END,
                         CASE WHEN $4 THEN gen_random_uuid() END, CASE WHEN $5 THEN now() END)",
            )
            .bind(MessageId::generate().uuid())
            .bind(state)
            .bind(due)
            .bind(lease)
            .bind(closed)
            .execute(&stage.pool)
            .await;
            let belongs = due == is_open && lease == (state == "asking") && closed == is_closed;
            assert_eq!(row.is_ok(), belongs, "{state}: {due} {lease} {closed}: {row:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_message_cannot_be_opened_again() {
    let mut stage = Stage::empty(&["max-resends=0", "upstreams=orders=http://127.0.0.1:1"]).await;
    stage.start().await;
    let id = MessageId::generate();
    stage.check(&[id], &["logistics"]).await;
    stage.state(id, "parked").await;
    for (from, to, allowed) in [
        ("parked", "confirmed", true),
        ("confirmed", "conflict", true),
        ("never_committed", "conflict", true),
        ("confirmed", "waiting", true),
        ("confirmed", "parked", false),
        ("never_committed", "confirmed", false),
        ("never_committed", "asking", false),
        ("withdrawn", "waiting", false),
        ("conflict", "confirmed", false),
        ("waiting", "waiting", false),
        ("waiting", "never_committed", false),
        ("parked", "waiting", true),
        ("waiting", "closed_by_hand", true),
        ("asking", "closed_by_hand", true),
        ("parked", "closed_by_hand", true),
        ("conflict", "closed_by_hand", true),
        ("closed_by_hand", "confirmed", false),
        ("closed_by_hand", "waiting", false),
        ("confirmed", "closed_by_hand", false),
    ] {
        let event = sqlx::query(
            "INSERT INTO overdue_event
                 (message_id, upstream, from_state, to_state, cause, reason, resends)
             VALUES ($1, 'orders', $2, $3, '', '', 0)",
        )
        .bind(id.uuid())
        .bind(from)
        .bind(to)
        .execute(&stage.pool)
        .await;
        assert_eq!(event.is_ok(), allowed, "{from} → {to}: {event:?}");
    }
}

/// The steps as `docs/states.md` has them.
fn steps() -> Vec<(Option<&'static str>, &'static str)> {
    let row =
        |cells: Vec<&'static str>| (Some(cells[0]).filter(|from| *from != "(none)"), cells[1]);
    rows("| from | to | causes |").map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_takes_every_step_that_there_is_and_no_other() {
    let mut stage = Stage::empty(&["max-resends=0", "upstreams=orders=http://127.0.0.1:1"]).await;
    stage.start().await;
    let id = MessageId::generate();
    stage.check(&[id], &["logistics"]).await;
    stage.state(id, "parked").await;
    let steps = steps();
    let states: Vec<&str> = states().iter().map(|state| state.name).collect();
    assert!(states.len() >= 8 && steps.len() > states.len(), "{states:?}, {steps:?}");
    for from in std::iter::once(None).chain(states.iter().copied().map(Some)) {
        for &to in &states {
            let event = sqlx::query(
                "INSERT INTO overdue_event
                     (message_id, upstream, from_state, to_state, cause, reason, resends)
                 VALUES ($1, 'orders', $2, $3, '', '', 0)",
            )
            .bind(id.uuid())
            .bind(from)
            .bind(to)
            .execute(&stage.pool)
            .await;
            let is_step = steps.contains(&(from, to));
            assert_eq!(event.is_ok(), is_step, "{from:?} → {to}: {event:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_column_says_what_it_is() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    let bare: Vec<String> = sqlx::query_scalar(
        "SELECT attrelid::regclass || '.' || attname FROM pg_attribute
         WHERE attrelid IN ('confirmation'::regclass, 'consumer_report'::regclass,
                            'overdue'::regclass, 'overdue_event'::regclass,
                            'job'::regclass, 'job_item'::regclass,
                            'upstream_pace'::regclass, 'upstream_tally'::regclass)
           AND attnum > 0 AND NOT attisdropped AND col_description(attrelid, attnum) IS NULL",
    )
    .fetch_all(&stage.pool)
    .await
    .unwrap();
    assert!(bare.is_empty(), "{bare:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_closed_or_parked_longer_ago_than_its_retention_is_forgotten() {
    let mut stage = Stage::empty(&["max-resends=0", "upstreams=orders=http://127.0.0.1:1"]).await;
    stage.start().await;
    let now = stage.count("SELECT (extract(epoch FROM now()) * 1000)::bigint").await;
    let days_ago = |days: i64, n: u8| {
        MessageId::from_parts(UnixMillis::from_ms(now - days * 24 * 60 * 60 * 1000), [n; 10])
    };
    let rows = [
        (days_ago(3, 1), "confirmed", 3, false),
        (days_ago(3, 2), "confirmed", 1, true),
        (days_ago(1, 3), "confirmed", 3, true),
        (days_ago(40, 4), "conflict", 40, true),
        (days_ago(400, 5), "parked", 366, false),
        (days_ago(400, 6), "parked", 364, true),
        // By a clock that was a year behind.
        (days_ago(9, 7), "parked", 366, true),
    ];
    for (id, state, ended_days_ago, _) in rows {
        sqlx::query(
            "WITH row AS (
                 INSERT INTO overdue
                     (message_id, upstream, consumers, state, cause, reason, closed_at, parked_at)
                 VALUES ($1, 'orders', '{logistics}', $2, '', '',
                         CASE WHEN $2 <> 'parked' THEN now() - make_interval(days => $3) END,
                         CASE WHEN $2 = 'parked' THEN now() - make_interval(days => $3) END)
             )
             INSERT INTO overdue_event (message_id, upstream, to_state, cause, reason, resends)
             VALUES ($1, 'orders', 'waiting', '', '', 0)",
        )
        .bind(id.uuid())
        .bind(state)
        .bind(ended_days_ago)
        .execute(&stage.pool)
        .await
        .unwrap();
    }
    // It prunes when it starts.
    stage.stop_first().await;
    let shutdown = CancellationToken::new();
    let service = Service::start(stage.config(), shutdown.clone()).await.unwrap();
    stage.gone(rows[0].0).await;
    stage.gone(rows[4].0).await;
    shutdown.cancel();
    service.finish().await.unwrap();
    for (id, state, _, stays) in rows {
        assert_eq!(stage.row(id).await.is_some(), stays, "{id} {state}");
        assert_eq!(stage.history(id).await.len(), usize::from(stays), "{id} {state}");
    }
}
