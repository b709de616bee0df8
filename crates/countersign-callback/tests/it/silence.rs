//! Databases that are gone without a word: nothing is closed, nothing answers.

use std::time::Duration;

use countersign_callback::Config;
use countersign_protocol::MessageId;
use countersign_testbed::{Conduct, Proxy, Way, eventually};

use crate::stage::Stage;

/// What a silence may cost, by the promise: the limit of a call, and what a replica waits before it
/// lets a shard go.
const A_MINUTE: Duration = Duration::from_secs(60);
const SHARD: &str = "countersign.confirm.0";

/// A replica's settings whose database is behind a proxy.
async fn through_proxy(stage: &mut Stage) -> (Proxy, Config) {
    let (proxy, url) = Proxy::before(stage.database.url()).await.unwrap();
    let setting = format!("database-url={url}");
    stage.set(&setting);
    let config = stage.config();
    stage.unset(&setting);
    (proxy, config)
}

async fn recorded_within(stage: &Stage, limit: Duration, ids: &[MessageId]) {
    eventually("every confirm is recorded", limit, async || {
        for id in ids {
            if !stage.has_confirmed("logistics", *id).await {
                return Err(*id);
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn confirms_are_recorded_within_a_minute_though_the_first_replicas_database_is_silent_for_ever()
 {
    let mut stage = Stage::empty(&["confirm-shards=1"]).await;
    let (proxy, first) = through_proxy(&mut stage).await;
    stage.start_with(first).await;
    // The first to come is the single active consumer of the shard.
    stage.is_consumed(SHARD).await;
    let before = MessageId::generate();
    stage.confirm("logistics", &[before]).await;
    stage.recorded("logistics", before).await;
    stage.start().await;

    proxy.conduct(Conduct::Silence);
    let ids: Vec<MessageId> = (0..20).map(|_| MessageId::generate()).collect();
    for id in &ids {
        stage.confirm("logistics", &[*id]).await;
    }
    recorded_within(&stage, A_MINUTE, &ids).await;

    // The replica that let the shard go is there again for its turn.
    proxy.conduct(Conduct::Forward { after: Duration::ZERO });
    eventually("both replicas consume the shard", A_MINUTE, async || {
        stage.vhost.consumers(SHARD).await == 2
    })
    .await;
    stage.all_is_acked_in_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_replica_records_again_when_only_its_old_connections_are_silent() {
    for way in [Way::ToTarget, Way::FromTarget, Way::Both] {
        let mut stage = Stage::empty(&["confirm-shards=1"]).await;
        let (proxy, config) = through_proxy(&mut stage).await;
        stage.start_with(config).await;
        let before = MessageId::generate();
        stage.confirm("logistics", &[before]).await;
        stage.recorded("logistics", before).await;
        proxy.lose(way);
        let id = MessageId::generate();
        stage.confirm("logistics", &[id]).await;
        recorded_within(&stage, A_MINUTE, &[id]).await;
        stage.all_is_acked_in_the_end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_knows_while_it_gets_nothing_done_and_when_it_does_again() {
    const LONG: Duration = Duration::from_secs(5);
    let mut stage = Stage::empty(&["confirm-shards=1"]).await;
    let (proxy, config) = through_proxy(&mut stage).await;
    stage.start_with(config).await;
    let pulse = stage.pulse();
    assert_eq!(pulse.stuck(LONG), None);
    proxy.conduct(Conduct::Silence);
    stage.confirm("logistics", &[MessageId::generate()]).await;
    eventually("it gets nothing done", A_MINUTE, async || pulse.stuck(LONG).is_some()).await;
    proxy.conduct(Conduct::Forward { after: Duration::ZERO });
    eventually("it gets everything done", A_MINUTE, async || {
        pulse.stuck(Duration::ZERO).map_or(Ok(()), Err)
    })
    .await;
    stage.all_is_acked_in_the_end().await;
}
