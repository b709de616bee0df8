//! What the ledger itself does not allow, whoever writes to it.

use countersign_callback::Service;
use countersign_protocol::{MessageId, UnixMillis};
use tokio_util::sync::CancellationToken;

use crate::stage::Stage;

/// In which states each column has a value.
const OPEN: &[&str] = &["waiting", "asking"];
const CLOSED: &[&str] =
    &["confirmed", "never_committed", "withdrawn", "conflict", "closed_by_hand"];
const STATES: [&str; 8] = [
    "waiting",
    "asking",
    "parked",
    "confirmed",
    "never_committed",
    "withdrawn",
    "conflict",
    "closed_by_hand",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_row_has_exactly_what_belongs_to_its_state() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    for state in STATES {
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
            let belongs = due == OPEN.contains(&state)
                && lease == (state == "asking")
                && closed == CLOSED.contains(&state);
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
        ("confirmed", "waiting", false),
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

/// The steps as `docs/states.md` has them, which the unit tests compare with the code.
fn steps() -> Vec<(Option<&'static str>, &'static str)> {
    let page = include_str!("../../../../docs/states.md");
    let (_, table) = page.split_once("| from | to | causes |\n|---|---|---|\n").unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let row = |line: &'static str| {
        let mut cells = line.split('|').skip(1).map(|cell| cell.trim().trim_matches('`'));
        let from = cells.next().filter(|from| *from != "(none)");
        (from, cells.next().unwrap())
    };
    rows.map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_takes_every_step_that_there_is_and_no_other() {
    let mut stage = Stage::empty(&["max-resends=0", "upstreams=orders=http://127.0.0.1:1"]).await;
    stage.start().await;
    let id = MessageId::generate();
    stage.check(&[id], &["logistics"]).await;
    stage.state(id, "parked").await;
    let steps = steps();
    assert!(steps.len() > STATES.len(), "{steps:?}");
    for from in std::iter::once(None).chain(STATES.map(Some)) {
        for to in STATES {
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
async fn only_what_was_closed_longer_ago_than_the_retention_is_pruned() {
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
        (days_ago(9, 4), "parked", 0, true),
    ];
    for (id, state, closed_days_ago, _) in rows {
        sqlx::query(
            "WITH row AS (
                 INSERT INTO overdue
                     (message_id, upstream, consumers, state, cause, reason, closed_at)
                 VALUES ($1, 'orders', '{logistics}', $2, '', '',
                         CASE WHEN $3 > 0 THEN now() - make_interval(days => $3) END)
             )
             INSERT INTO overdue_event (message_id, upstream, to_state, cause, reason, resends)
             VALUES ($1, 'orders', 'waiting', '', '', 0)",
        )
        .bind(id.uuid())
        .bind(state)
        .bind(closed_days_ago)
        .execute(&stage.pool)
        .await
        .unwrap();
    }
    // It prunes when it starts.
    stage.stop_first().await;
    let shutdown = CancellationToken::new();
    let service = Service::start(stage.config(), shutdown.clone()).await.unwrap();
    stage.gone(rows[0].0).await;
    shutdown.cancel();
    service.finish().await.unwrap();
    for (id, state, _, stays) in rows {
        assert_eq!(stage.row(id).await.is_some(), stays, "{id} {state}");
        assert_eq!(stage.history(id).await.len(), usize::from(stays), "{id} {state}");
    }
}
