//! An upstream that keeps its data elsewhere than in Postgres.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_producer::{Found, MessageId, MessageSource, SourceError, upstream_without_store};
use countersign_protocol::grpc::request_resend_response::Outcome;
use countersign_protocol::grpc::upstream_client::UpstreamClient;
use countersign_testbed::id_of_age;

use crate::stage::{Stage, outcome, settings, thing};

#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<HashMap<MessageId, String>>>);

impl MessageSource<()> for Shelf {
    async fn find(&self, (): &mut (), id: MessageId) -> Result<Found, SourceError> {
        let name = self.0.lock().unwrap().get(&id).cloned();
        Ok(name.map_or(Found::NotFound, |name| Found::Message(thing(&name).with_id(id))))
    }
}

#[tokio::test]
async fn the_age_of_what_is_not_found_decides() {
    let mut settings = settings();
    settings.longest_transaction = Duration::from_secs(60);
    settings.armed_max_age = Duration::from_secs(30);
    let stage = Stage::new(settings).await;
    let shelf = Shelf::default();
    let mut upstream =
        UpstreamClient::new(upstream_without_store(stage.publisher.clone(), shelf.clone()));
    let mut ask = async |id: MessageId| {
        let mut request = stage.request(&id.to_string(), 2);
        request.database.clear();
        outcome(upstream.request_resend(request).await.unwrap().get_ref())
    };

    let message = thing("a chair");
    let id = message.id();
    let held = stage.publisher.arm(message).unwrap().held().await.unwrap();
    assert_eq!(ask(id).await, Outcome::InProgress);
    shelf.0.lock().unwrap().insert(id, "a chair".to_owned());
    held.committed().publish();
    stage.published(id).await;
    assert_eq!(ask(id).await, Outcome::Republished);
    assert_eq!(stage.published(id).await.headers["countersign-attempt"], 2);

    assert_eq!(ask(id_of_age(Duration::from_secs(120))).await, Outcome::NeverCommitted);
    assert_eq!(ask(id_of_age(Duration::from_secs(31 * 24 * 3_600))).await, Outcome::Unknown);
    let of_a_database = stage.request(&id.to_string(), 3);
    let answer = upstream.request_resend(of_a_database).await.unwrap();
    assert_eq!(outcome(answer.get_ref()), Outcome::Misdirected, "it has no database");
}
