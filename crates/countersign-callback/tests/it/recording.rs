//! Confirms, recorded.

use countersign_protocol::MessageId;
use countersign_testbed::{SOON, eventually};
use serde_json::json;

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_is_recorded_once_however_often_it_comes() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    let ids = [MessageId::generate(), MessageId::generate()];
    let twice = [ids[0], ids[1], ids[0]];
    stage.confirm("logistics", &twice).await;
    stage.confirm("logistics", &twice).await;
    stage.confirm("billing", &ids).await;
    stage.recorded("billing", ids[1]).await;
    assert_eq!(stage.count("SELECT count(*) FROM confirmation").await, 4);
    stage.all_is_acked_in_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_confirm_says_of_the_attempt_is_kept() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    let (third, absurd) = (MessageId::generate(), MessageId::generate());
    let entry = |id: MessageId, attempt: u32| json!({ "id": id.to_string(), "outcome": "processed", "attempt": attempt });
    stage.say("logistics", vec![entry(third, 3), entry(absurd, u32::MAX)]).await;
    stage.recorded("logistics", absurd).await;
    let attempts: Vec<Option<i32>> =
        sqlx::query_scalar("SELECT attempt FROM confirmation ORDER BY message_id = $1 DESC")
            .bind(third.uuid())
            .fetch_all(&stage.pool)
            .await
            .unwrap();
    assert_eq!(attempts, [Some(3), None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_beats_retrying_and_processed_beats_both_in_any_order() {
    let mut stage = Stage::empty(&[]).await;
    stage.start().await;
    let processed = json!({ "outcome": "processed" });
    let rejected = json!({ "outcome": "rejected", "reason": "no such article" });
    let retrying = json!({ "outcome": "retrying", "until_ms": 5, "reason": "locked" });
    let orders = [
        ([&retrying, &rejected], Some("rejected")),
        ([&rejected, &retrying], Some("rejected")),
        ([&processed, &rejected], None),
        ([&rejected, &processed], None),
        ([&retrying, &retrying], Some("retrying")),
    ];
    for in_one_message in [true, false] {
        for (words, expected) in &orders {
            let id = MessageId::generate();
            let entries: Vec<_> = words
                .iter()
                .map(|word| {
                    let mut entry = (**word).clone();
                    entry["id"] = json!(id.to_string());
                    entry
                })
                .collect();
            if in_one_message {
                stage.say("logistics", entries).await;
            } else {
                for entry in entries {
                    stage.say("logistics", vec![entry]).await;
                }
            }
            let told = eventually(&format!("{words:?} is heard"), SOON, async || {
                let told = stage.told(&id.to_string()).await.unwrap();
                let outcome = told.reports.first().map(|report| report.outcome.clone());
                let confirmed = told.state == "confirmed";
                if outcome.as_deref() == *expected && confirmed == expected.is_none() {
                    Ok(told)
                } else {
                    Err(told)
                }
            })
            .await;
            assert!(told.reports.len() <= 1, "{told:?}");
        }
    }
    stage.all_is_acked_in_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shard_is_read_and_an_unknown_one_loses_nothing() {
    let mut stage = Stage::empty(&["confirm-shards=3"]).await;
    stage.start().await;
    for key in ["0", "1", "2", "99", "what"] {
        let id = MessageId::generate();
        let confirm = json!({ "v": 1, "consumer": "logistics",
            "confirms": [{ "id": id.to_string(), "outcome": "processed" }] });
        stage.publish("countersign.confirm", key, confirm.to_string().as_bytes()).await;
        stage.recorded("logistics", id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_in_a_shard_that_is_not_configured_any_more_is_recorded() {
    let mut stage = Stage::empty(&["confirm-shards=4"]).await;
    stage.start().await;
    stage.is_consumed("countersign.confirm.3").await;
    stage.stop_first().await;
    let id = MessageId::generate();
    let confirm = json!({ "v": 1, "consumer": "logistics",
        "confirms": [{ "id": id.to_string(), "outcome": "processed" }] });
    stage.publish("countersign.confirm", "3", confirm.to_string().as_bytes()).await;

    stage.set("confirm-shards=1");
    stage.start().await;
    stage.recorded("logistics", id).await;
    let shards = "SELECT count(DISTINCT shard) FROM confirm_marker";
    stage.check(&[MessageId::generate()], &["logistics"]).await;
    stage.counts("shards that are waited for", shards, 4).await;
}

/// As in a rolling release that adds shards, and is rolled back.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_runs_takes_the_shards_that_another_one_adds() {
    let mut stage = Stage::empty(&["confirm-shards=1"]).await;
    stage.start().await;
    stage.set("confirm-shards=3");
    stage.start().await;
    let confirm = async |stage: &Stage, id: MessageId| {
        let confirm = json!({ "v": 1, "consumer": "logistics",
            "confirms": [{ "id": id.to_string(), "outcome": "processed" }] });
        stage.publish("countersign.confirm", "2", confirm.to_string().as_bytes()).await;
    };
    eventually("both replicas consume the new shard", SOON, async || {
        let consumers = stage.vhost.consumers("countersign.confirm.2").await;
        if consumers == 2 { Ok(()) } else { Err(consumers) }
    })
    .await;
    stage.stop_last().await;
    let id = MessageId::generate();
    confirm(&stage, id).await;
    stage.recorded("logistics", id).await;
    let waited_for = "SELECT count(DISTINCT shard) FROM confirm_marker";
    stage.check(&[MessageId::generate()], &["logistics"]).await;
    stage.counts("shards that are waited for", waited_for, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_there_for_the_retention_and_48_hours_ahead() {
    let mut stage = Stage::empty(&["retention=3d"]).await;
    stage.start().await;
    for table in ["confirmation", "consumer_report"] {
        let days: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_inherits WHERE inhparent = $1::text::regclass",
        )
        .bind(table)
        .fetch_one(&stage.pool)
        .await
        .unwrap();
        assert_eq!(days, 6, "{table}: three days back, today, two days ahead");
    }
    let now: i64 = stage.count("SELECT (extract(epoch FROM now()) * 1000)::bigint").await;
    let in_23_hours = countersign_protocol::UnixMillis::from_ms(now + 23 * 60 * 60 * 1000);
    let ahead = MessageId::from_parts(in_23_hours, [7; 10]);
    stage.confirm("logistics", &[ahead]).await;
    stage.recorded("logistics", ahead).await;
}
