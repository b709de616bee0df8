//! Lists and counts of overdue messages.

use std::collections::BTreeMap;

use countersign_protocol::MessageId;
use countersign_protocol::grpc::{
    CountOverdueRequest, CountOverdueResponse, ListOverdueRequest, ListOverdueResponse,
    OverdueFilter,
};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::stage::Stage;

/// Rows of every kind, without anybody having sent a message.
async fn some_rows(stage: &Stage, count: i32) {
    let ids: Vec<Uuid> = (0..count).map(|_| MessageId::generate().uuid()).collect();
    // Several have the same time, as those of one check message do.
    sqlx::query(
        "INSERT INTO overdue (message_id, upstream, state, cause, consumers, reason, since, due_at,
                              closed_at)
         SELECT id, (ARRAY['orders', 'billing'])[1 + n % 2], state,
                CASE state WHEN 'parked' THEN (ARRAY['rejected', 'open_too_long'])[1 + n % 3 % 2]
                           WHEN 'waiting' THEN 'not_confirmed' ELSE state END,
                CASE n % 3 WHEN 0 THEN ARRAY['logistics', 'audit'] ELSE ARRAY['logistics'] END,
                '', now() - n / 5 * interval '1 min',
                CASE WHEN state = 'waiting' THEN now() + interval '1 day' END,
                CASE WHEN state IN ('confirmed', 'conflict') THEN now() END
         FROM (SELECT id, n::integer, (ARRAY['parked', 'waiting', 'confirmed', 'parked', 'conflict'])
                   [1 + n % 5] AS state
               FROM UNNEST($1::uuid[]) WITH ORDINALITY AS made (id, n)) AS row",
    )
    .bind(ids)
    .execute(&stage.pool)
    .await
    .unwrap();
}

async fn list(stage: &Stage, request: ListOverdueRequest) -> Result<ListOverdueResponse, Status> {
    Ok(stage.admin().list_overdue(request).await?.into_inner())
}

async fn count(stage: &Stage, filter: OverdueFilter, by: &[&str]) -> CountOverdueResponse {
    let group_by = by.iter().map(|&word| word.to_owned()).collect();
    let request = CountOverdueRequest { filter: Some(filter), group_by };
    stage.admin().count_overdue(request).await.unwrap().into_inner()
}

/// All pages after each other; `between` happens after each.
async fn pages(
    stage: &Stage,
    filter: OverdueFilter,
    page_size: u32,
    between: impl AsyncFn(&ListOverdueResponse),
) -> Vec<String> {
    let mut ids = Vec::new();
    let mut page_token = String::new();
    loop {
        let filter = Some(filter.clone());
        let page = list(stage, ListOverdueRequest { filter, page_size, page_token }).await.unwrap();
        assert!(page.messages.len() <= page_size as usize);
        assert!(page.messages.is_sorted_by_key(|message| message.since_ms));
        between(&page).await;
        ids.extend(page.messages.into_iter().map(|message| message.message_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return ids;
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_filter_finds_what_a_plain_query_finds() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    some_rows(&stage, 400).await;
    let some = OverdueFilter::default;
    let unresolved = "state IN ('waiting', 'asking', 'parked', 'conflict')";
    for (filter, plain) in [
        (some(), unresolved.to_owned()),
        (OverdueFilter { states: words(&["confirmed"]), ..some() }, "state = 'confirmed'".into()),
        (
            OverdueFilter { states: words(&["parked", "conflict"]), ..some() },
            "state IN ('parked', 'conflict')".into(),
        ),
        (
            OverdueFilter { upstream: "billing".into(), ..some() },
            format!("{unresolved} AND upstream = 'billing'"),
        ),
        (
            OverdueFilter { consumer: "audit".into(), ..some() },
            format!("{unresolved} AND 'audit' = ANY(consumers)"),
        ),
        (
            OverdueFilter { causes: words(&["rejected", "open_too_long"]), ..some() },
            format!("{unresolved} AND cause IN ('rejected', 'open_too_long')"),
        ),
        (
            OverdueFilter {
                states: words(&["parked"]),
                upstream: "orders".into(),
                consumer: "audit".into(),
                causes: words(&["rejected"]),
                older_than_ms: 10 * 60_000 - 30_000,
                younger_than_ms: 60 * 60_000 + 30_000,
            },
            "state = 'parked' AND upstream = 'orders' AND 'audit' = ANY(consumers)
             AND cause = 'rejected' AND since <= now() - interval '9.5 min'
             AND since >= now() - interval '60.5 min'"
                .into(),
        ),
        (OverdueFilter { upstream: "nobody".into(), ..some() }, "FALSE".into()),
    ] {
        let sql = format!(
            "SELECT message_id::text FROM overdue WHERE {plain} ORDER BY since, message_id, upstream"
        );
        let expected: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&stage.pool).await.unwrap();
        let counted = count(&stage, filter.clone(), &["state", "upstream", "cause"]).await;
        assert_eq!(counted.total, expected.len() as u64, "{plain}");
        assert_eq!(counted.groups.iter().map(|group| group.messages).sum::<u64>(), counted.total);
        assert!(!expected.is_empty() || plain == "FALSE", "{plain}: this shows nothing");
        for size in [1_000, 7] {
            let listed = pages(&stage, filter.clone(), size, async |_| {}).await;
            assert_eq!(listed, expected, "{plain}, {size} at a time");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_counted_as_a_plain_query_counts_them() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    some_rows(&stage, 300).await;
    let told = count(&stage, OverdueFilter::default(), &["state", "consumer"]).await;
    let told: BTreeMap<(String, String), (u64, i64)> = told
        .groups
        .into_iter()
        .map(|group| ((group.state, group.consumer), (group.messages, group.oldest_since_ms)))
        .collect();
    let plain: Vec<(String, String, i64, i64)> = sqlx::query_as(
        "SELECT state, consumer, count(*), floor(extract(epoch FROM min(since)) * 1000)::bigint
         FROM overdue CROSS JOIN UNNEST(consumers) AS consumer
         WHERE state <> 'confirmed' GROUP BY state, consumer",
    )
    .fetch_all(&stage.pool)
    .await
    .unwrap();
    let plain: BTreeMap<(String, String), (u64, i64)> = plain
        .into_iter()
        .map(|(state, consumer, count, oldest)| ((state, consumer), (count as u64, oldest)))
        .collect();
    assert_eq!(told, plain);
    assert_eq!(told.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_neither_gaps_nor_repeats_while_rows_change() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    some_rows(&stage, 300).await;
    let before: Vec<String> = sqlx::query_scalar(
        "SELECT message_id::text FROM overdue WHERE state <> 'confirmed'
         ORDER BY since, message_id, upstream",
    )
    .fetch_all(&stage.pool)
    .await
    .unwrap();
    // After each page, every row goes on to another state of those listed, also those that were
    // the page's last, and new ones come that are older than all.
    let listed = pages(&stage, OverdueFilter::default(), 10, async |page| {
        sqlx::query(
            "UPDATE overdue
             SET state = CASE state WHEN 'parked' THEN 'waiting' ELSE 'parked' END,
                 due_at = CASE state WHEN 'parked' THEN now() + interval '1 day' END,
                 cause = 'seen ' || $1
             WHERE state IN ('waiting', 'parked')",
        )
        .bind(page.messages[0].message_id.as_str())
        .execute(&stage.pool)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO overdue (message_id, upstream, state, cause, consumers, reason, since)
             VALUES ($1, 'orders', 'parked', 'rejected', '{logistics}', '', now() - interval '1 y')",
        )
        .bind(MessageId::generate().uuid())
        .execute(&stage.pool)
        .await
        .unwrap();
    })
    .await;
    assert_eq!(listed, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_of_another_list_is_refused() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    some_rows(&stage, 20).await;
    let request = |upstream: &str, page_token: &str, page_size| ListOverdueRequest {
        filter: Some(OverdueFilter { upstream: upstream.to_owned(), ..Default::default() }),
        page_size,
        page_token: page_token.to_owned(),
    };
    let page = list(&stage, request("orders", "", 2)).await.unwrap();
    assert!(!page.next_page_token.is_empty());
    list(&stage, request("orders", &page.next_page_token, 3)).await.unwrap();
    for (request, part) in [
        (request("billing", &page.next_page_token, 2), "page_token: it is of a list with another"),
        (request("orders", "nonsense", 2), "page_token: it cannot be read"),
        (request("orders", "", 1_001), "page_size: 1001 is too many"),
        (request("O!", "", 2), "filter.upstream"),
    ] {
        let status = list(&stage, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(part), "{part} is missing: {status:?}");
    }
}
