//! What cannot be read or stored, and its neighbours.

use countersign_protocol::envelope::MAX_BODY_BYTES;
use countersign_protocol::{MessageId, UnixMillis};
use countersign_testbed::Peeked;
use serde_json::{Value, json};

use crate::stage::{QUARANTINE, Stage};

/// What stands in quarantine, once that are `count`: body, reason, source.
async fn quarantined(stage: &Stage, count: usize) -> Vec<(String, String, String)> {
    let text = |peeked: &Peeked, header: &str| {
        peeked.headers.get(header).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    stage.are_quarantined(u64::try_from(count).unwrap()).await;
    let all = stage.vhost.take(QUARANTINE, 1_000).await;
    assert_eq!(all.len(), count);
    all.iter()
        .map(|peeked| {
            let body = String::from_utf8_lossy(&peeked.body).into_owned();
            (body, text(peeked, "countersign-reason"), text(peeked, "countersign-source"))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_envelope_goes_to_quarantine_whole_and_its_neighbours_are_recorded() {
    let mut stage = Stage::empty(&["max-resends=0"]).await;
    stage.start().await;
    let id = MessageId::generate().to_string();
    let entry = json!({ "id": id, "outcome": "processed" });
    let confirms: [(Vec<u8>, &str); 7] = [
        (b"".to_vec(), "not a confirm envelope"),
        (b"\xff\xfe\x00".to_vec(), "not a confirm envelope"),
        (br#"{"v":1,"consumer":"#.to_vec(), "not a confirm envelope"),
        (json!({ "v": 2, "news": true }).to_string().into(), "version 2"),
        (
            json!({ "v": 1, "consumer": "log\0istics", "confirms": [entry] }).to_string().into(),
            "consumer",
        ),
        (
            json!({ "v": 1, "consumer": "logistics", "confirms": [] }).to_string().into(),
            "0 entries",
        ),
        (json!([1, 2, 3]).to_string().into(), "not a confirm envelope"),
    ];
    let before = MessageId::generate();
    stage.confirm("logistics", &[before]).await;
    for (body, _) in &confirms {
        stage.publish("countersign.confirm", "0", body).await;
    }
    let after = MessageId::generate();
    stage.confirm("logistics", &[after]).await;
    stage.recorded("logistics", before).await;
    stage.recorded("logistics", after).await;
    let all = quarantined(&stage, confirms.len()).await;
    for ((body, reason), (found, why, source)) in confirms.iter().zip(&all) {
        assert_eq!(*found, String::from_utf8_lossy(body));
        assert!(why.contains(reason), "{why} / {reason}");
        assert_eq!(source, "countersign.confirm.0");
    }

    let unreadable = json!({ "v": 1, "upstream": "Orders!", "armed_at_ms": 1, "messages": [] });
    stage.due(&unreadable).await;
    let late = MessageId::generate();
    stage.check(&[late], &["logistics"]).await;
    stage.state(late, "parked").await;
    let all = quarantined(&stage, 1).await;
    assert!(all[0].1.contains("upstream"), "{all:?}");
    assert_eq!(all[0].2, "countersign.check.due");
    stage.all_is_acked_in_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_entry_goes_to_quarantine_in_an_envelope_of_its_own() {
    let mut stage = Stage::empty(&["max-resends=0"]).await;
    stage.start().await;
    let now = stage.count("SELECT (extract(epoch FROM now()) * 1000)::bigint").await;
    let at = |ms: i64| MessageId::from_parts(UnixMillis::from_ms(ms), [1; 10]).to_string();
    let hour = 60 * 60 * 1000;
    let bad = [
        (json!({ "id": "7", "outcome": "processed" }), "id: not a UUID"),
        (
            json!({ "id": "7b0dd3ba-6b1a-4e0c-9a6e-0b2ab7d8e4c1", "outcome": "processed" }),
            "version 7",
        ),
        (json!({ "id": at(now + 25 * hour), "outcome": "processed" }), "future"),
        (json!({ "id": at(now - 49 * hour), "outcome": "processed" }), "older than the retention"),
        (json!({ "id": at(now), "outcome": "shipped" }), "outcome"),
        (json!({ "id": at(now), "outcome": "retrying" }), "until_ms"),
        (json!({ "id": at(now), "outcome": "processed", "queue": "a\0b" }), "queue"),
        (json!("what"), "entry"),
    ];
    for (entry, _) in &bad {
        let good = MessageId::generate();
        let good_entry = json!({ "id": good.to_string(), "outcome": "processed" });
        stage.say("logistics", vec![entry.clone(), good_entry]).await;
        stage.recorded("logistics", good).await;
    }
    let all = quarantined(&stage, bad.len()).await;
    for ((entry, reason), (body, why, _)) in bad.iter().zip(&all) {
        let envelope: Value = serde_json::from_str(body).unwrap();
        assert_eq!(envelope, json!({ "v": 1, "consumer": "logistics", "confirms": [entry] }));
        assert!(why.contains(reason), "{why} / {reason}");
    }

    let late = MessageId::generate();
    let nobody = json!({ "id": at(now), "consumers": [] });
    let check = json!({ "v": 1, "upstream": "orders", "armed_at_ms": 5, "messages": [
        nobody, { "id": late.to_string(), "consumers": ["logistics"] },
    ]});
    stage.due(&check).await;
    stage.state(late, "parked").await;
    let (body, why, _) = quarantined(&stage, 1).await.remove(0);
    let envelope: Value = serde_json::from_str(&body).unwrap();
    let expected = json!({ "v": 1, "upstream": "orders", "armed_at_ms": 5, "messages": [nobody] });
    assert_eq!(envelope, expected);
    assert!(why.contains("consumers"), "{why}");
    stage.all_is_acked_in_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn however_much_of_an_envelope_is_refused_it_is_one_message_in_quarantine() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    let bad: Vec<Value> =
        (0..999).map(|n| json!({ "id": n.to_string(), "outcome": "processed" })).collect();
    let good = MessageId::generate();
    let mut entries = bad.clone();
    entries.insert(500, json!({ "id": good.to_string(), "outcome": "processed" }));
    stage.say("logistics", entries).await;
    stage.recorded("logistics", good).await;
    let (body, why, _) = quarantined(&stage, 1).await.remove(0);
    let envelope: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(envelope, json!({ "v": 1, "consumer": "logistics", "confirms": bad }));
    assert!(why.starts_with("999 of 1000 entries: id: not a UUID"), "{why}");
    stage.all_is_acked_in_the_end().await;
}

/// A quarantine queue without a leader takes nothing; neither does one that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_that_takes_nothing_holds_up_no_confirm() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    stage.vhost.delete_queue(QUARANTINE).await;
    stage.publish("countersign.confirm", "0", b"garbage").await;
    for _ in 0..3 {
        let good = MessageId::generate();
        stage.confirm("logistics", &[good]).await;
        stage.recorded("logistics", good).await;
    }
    stage.vhost.declare_queue(QUARANTINE, json!({ "x-queue-type": "quorum" })).await;
    stage.vhost.bind(QUARANTINE, QUARANTINE, "").await;
    let (body, _, _) = quarantined(&stage, 1).await.remove(0);
    assert_eq!(body, "garbage");
    stage.all_is_acked_in_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_the_database_refuses_harms_no_neighbour() {
    let mut stage = Stage::empty(&["max-resends=0"]).await;
    stage.start().await;
    let ids: Vec<MessageId> = (0..333).map(|_| MessageId::generate()).collect();
    // Whatever it is that Postgres will not have.
    for culprit in [ids[0], ids[100], ids[332]] {
        let sql = format!(
            "ALTER TABLE confirmation ADD CHECK (message_id <> '{culprit}');
             ALTER TABLE overdue ADD CHECK (message_id <> '{culprit}')"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&stage.pool).await.unwrap();
    }
    stage.confirm("logistics", &ids).await;
    stage.check(&ids, &["billing"]).await;
    let mut all = quarantined(&stage, 6).await;
    all.sort_by(|a, b| a.2.cmp(&b.2));
    for (body, why, source) in &all {
        assert!(why.contains("the database refuses it"), "{why}");
        let envelope: Value = serde_json::from_str(body).unwrap();
        let kind = if source == "countersign.check.due" { "messages" } else { "confirms" };
        assert_eq!(envelope[kind].as_array().unwrap().len(), 1, "{body}");
    }
    stage.confirms_are_recorded(330).await;
    stage.rows_are("parked", 330).await;
    stage.all_is_acked_in_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nul_in_a_reason_is_replaced_and_the_word_counts() {
    let mut stage = Stage::empty(&["max-resends=0"]).await;
    stage.start().await;
    let id = MessageId::generate();
    let rejected = json!({ "id": id.to_string(), "outcome": "rejected", "reason": "a\0b" });
    stage.say("logistics", vec![rejected]).await;
    stage.reports_are_recorded(1).await;
    let told = stage.told(&id.to_string()).await.unwrap();
    assert_eq!(told.reports[0].reason, "a\u{fffd}b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_cut_and_kept() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    let body = vec![b'x'; MAX_BODY_BYTES + 1];
    stage.publish("countersign.confirm", "0", &body).await;
    let (kept, why, _) = quarantined(&stage, 1).await.remove(0);
    assert_eq!(kept.len(), MAX_BODY_BYTES);
    assert!(why.contains("1048577 bytes") && why.contains("cut off"), "{why}");
    stage.all_is_acked_in_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_should_have_a_partition_gets_one_instead_of_quarantine() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    let sql = "SELECT 'DROP TABLE ' || string_agg(inhrelid::regclass::text, ', ') FROM pg_inherits
               WHERE inhparent = 'confirmation'::regclass";
    let drop: String = sqlx::query_scalar(sql).fetch_one(&stage.pool).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(drop)).execute(&stage.pool).await.unwrap();
    let id = MessageId::generate();
    stage.confirm("logistics", &[id]).await;
    stage.recorded("logistics", id).await;
    assert_eq!(stage.vhost.depth(QUARANTINE).await.unwrap_or_default().total(), 0);
}
