//! The program itself: settings, signals, exit codes.

use std::sync::Arc;
use std::time::Duration;

use countersign_protocol::MessageId;
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_testbed::{Folder, SOON, Service};

use crate::stage::Stage;
use crate::upstream::{Reply, Upstream, say, saying};

/// `docker stop` kills after 10 s.
const GRACE: Duration = Duration::from_secs(9);

fn program(stage: &Stage) -> Service {
    let folder = Arc::new(Folder::create("callback").unwrap());
    let mut program = Service::new(&folder, "callback", "countersign-callback").unwrap();
    for (name, value) in stage.environment() {
        program.set(&name, value);
    }
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_in_time_with_nothing_half_done() {
    let slowly = Reply::After(Duration::from_secs(1), saying(Outcome::Republished));
    let upstream = Upstream::always(slowly).await;
    let mut stage = Stage::empty(&[]).await;
    stage.upstream(&upstream);
    let program = program(&stage);
    program.start().unwrap();
    program.ready(SOON).await.unwrap();
    let (confirmed, late) = (MessageId::generate(), MessageId::generate());
    stage.confirm("logistics", &[confirmed]).await;
    stage.recorded("logistics", confirmed).await;
    stage.check(&[late], &["logistics"]).await;
    upstream.is_asked(late, 2).await;
    let status = program.terminate(GRACE).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", program.log());
    assert_eq!(stage.state(late, "waiting").await.resends, 1, "the answer was waited for");
    stage.all_is_acked_in_the_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_alarms_with_one_error_in_the_log() {
    let upstream = Upstream::always(say(Outcome::NeverCommitted)).await;
    let mut stage = Stage::empty(&[]).await;
    stage.upstream(&upstream);
    let program = program(&stage);
    program.start().unwrap();
    program.ready(SOON).await.unwrap();
    let id = MessageId::generate();
    stage.check(&[id], &["logistics"]).await;
    stage.state(id, "never_committed").await;
    stage.confirm("logistics", &[id]).await;
    stage.state(id, "conflict").await;
    // It has said so by the time that it has ended.
    program.terminate(GRACE).await.unwrap();
    let log = program.log();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].contains("conflict: its upstream says that it never committed"),
        "{errors:?}"
    );
    assert!(errors[0].contains(&id.to_string()), "{errors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_in_time_while_it_waits_for_its_servers() {
    let mut stage = Stage::empty(&[]).await;
    for away in ["database-url=postgres://u:p@127.0.0.1:1/callback", "amqp-url=amqp://127.0.0.1:1"]
    {
        stage.set(away);
        let program = program(&stage);
        program.start().unwrap();
        countersign_testbed::eventually("it says that it waits", SOON, async || {
            let log = program.log();
            if log.contains("127.0.0.1:1") { Ok(()) } else { Err(log) }
        })
        .await;
        let status = program.terminate(GRACE).await.unwrap();
        assert_eq!(status.code(), Some(0), "{away}: {}", program.log());
        stage.unset(away);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_setting_is_named_at_once() {
    let mut stage = Stage::empty(&[]).await;
    for wrong in [
        "upstreams=orders=http://a:1,orders=http://b:2",
        "max-resends=-1",
        "resend-delay=0s",
        "check-tiers=5 apples",
        "confirm-shards=65",
        "retention=1d",
        "park-after=2d",
        "parked-retention=1h",
    ] {
        stage.set(wrong);
    }
    let program = program(&stage);
    program.start().unwrap();
    let status = program.wait(SOON).await.unwrap();
    assert_eq!(status.code(), Some(64));
    let log = program.log();
    for part in [
        "COUNTERSIGN_UPSTREAMS: orders is listed twice",
        "COUNTERSIGN_MAX_RESENDS: ",
        "COUNTERSIGN_RESEND_DELAY: ",
        "COUNTERSIGN_CHECK_TIERS: ",
        "COUNTERSIGN_CONFIRM_SHARDS: ",
        "COUNTERSIGN_RETENTION: use 2d or more",
        "COUNTERSIGN_RETENTION: has to be longer than COUNTERSIGN_PARK_AFTER",
        "COUNTERSIGN_PARKED_RETENTION: has to be COUNTERSIGN_RETENTION or longer",
    ] {
        assert!(log.contains(part), "{part} is missing in:\n{log}");
    }
}
