//! Operators act on many messages at once, with the token that this takes.

use std::collections::BTreeMap;

use countersign_protocol::grpc::callback_client::CallbackClient;
use countersign_protocol::grpc::{
    CreateJobRequest, GetJobRequest, Job, JobAction, JobItem, ListJobItemsRequest, OverdueFilter,
};
use countersign_protocol::{MessageId, Token};
use countersign_testbed::{HEALED, eventually};
use tonic::transport::Channel;
use tonic::{Code, Request};
use uuid::Uuid;

use crate::world::{ORDERS_QUEUE, World};

const TOKEN: &str = "let-me-in";

/// A world in which messages are sent again only by hand, and orders and callback have a token.
fn by_hand(world: &mut World) {
    world.orders.set("COUNTERSIGN_TOKEN", TOKEN);
    world
        .callback
        .set("COUNTERSIGN_TOKEN", TOKEN)
        .set("COUNTERSIGN_MAX_RESENDS", "0")
        .set("COUNTERSIGN_RESEND_RATE", "100000")
        // Longer than any resend takes to be confirmed here.
        .set("COUNTERSIGN_RESEND_DELAY", "10m");
}

fn callback(world: &World) -> CallbackClient<Channel> {
    CallbackClient::new(world.callback_channel())
}

/// Committed orders whose messages were lost, and given up. The test writes their rows itself
/// instead of waiting for five thousand checks.
async fn park_orders(world: &World, count: usize) {
    let ids: Vec<Uuid> = (0..count).map(|_| MessageId::generate().uuid()).collect();
    for (sql, pool) in [
        (
            "INSERT INTO orders (order_id, message_id, name)
             SELECT gen_random_uuid(), id, 'a chair' FROM UNNEST($1::uuid[]) AS id",
            &world.databases.orders,
        ),
        (
            "INSERT INTO countersign.enlisted (message_id, upstream)
             SELECT id, 'orders' FROM UNNEST($1::uuid[]) AS id",
            &world.databases.orders,
        ),
        (
            "INSERT INTO overdue (message_id, upstream, state, cause, consumers, reason)
             SELECT id, 'orders', 'parked', 'resends_used_up', '{logistics}', 'given up'
             FROM UNNEST($1::uuid[]) AS id",
            &world.databases.callback,
        ),
    ] {
        sqlx::query(sql).bind(&ids).execute(pool).await.unwrap();
    }
}

async fn resend_all_parked(world: &World) -> String {
    let mut request = Request::new(CreateJobRequest {
        action: JobAction::Resend.into(),
        filter: Some(OverdueFilter { states: vec!["parked".to_owned()], ..Default::default() }),
        who: "ada".to_owned(),
        why: "what was destroyed is to be sent again".to_owned(),
        ..CreateJobRequest::default()
    });
    TOKEN.parse::<Token>().unwrap().show(request.metadata_mut());
    let created = callback(world).create_job(request).await.unwrap().into_inner();
    created.job.unwrap().job_id
}

async fn job(world: &World, job_id: &str) -> Job {
    let request = GetJobRequest { job_id: job_id.to_owned() };
    callback(world).get_job(request).await.unwrap().into_inner().job.unwrap()
}

async fn job_when(world: &World, job_id: &str, what: &str, is: impl Fn(&Job) -> bool) -> Job {
    eventually(&format!("the job {what}"), HEALED, async || {
        let job = job(world, job_id).await;
        if is(&job) { Ok(job) } else { Err(job) }
    })
    .await
}

/// Returns when the job has ended. A job of thousands of messages may take its time as long as it
/// moves: each further message has a deadline of its own.
async fn ended(world: &World, job_id: &str) -> Job {
    let mut job = job(world, job_id).await;
    while job.ended_at_ms == 0 {
        let before = job;
        job = job_when(world, job_id, "goes on", |job| *job != before).await;
    }
    job
}

async fn items(world: &World, job_id: &str) -> Vec<JobItem> {
    let mut items = Vec::new();
    let mut request = ListJobItemsRequest {
        job_id: job_id.to_owned(),
        page_size: 1_000,
        ..ListJobItemsRequest::default()
    };
    loop {
        let page = callback(world).list_job_items(request.clone()).await.unwrap().into_inner();
        items.extend(page.items);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return items;
        }
    }
}

#[tokio::test]
async fn a_bulk_resend_of_5000_parked_messages_survives_a_kill_and_each_has_its_own_result() {
    const ORDERS: usize = 5_000;
    let mut world = World::new().await;
    by_hand(&mut world);
    world.start().await;
    park_orders(&world, ORDERS).await;

    let job_id = resend_all_parked(&world).await;
    let before = job_when(&world, &job_id, "is in the middle", |job| job.succeeded >= 100).await;
    assert_eq!(before.ended_at_ms, 0, "it is killed too late to show anything: {before:?}");
    world.callback.kill();
    world.callback.start().unwrap();
    world.callback.ready(HEALED).await.unwrap();
    let first = ended(&world, &job_id).await;
    assert_eq!(first.state, "done", "{first:?}");
    assert_eq!(first.succeeded + first.failed, first.items, "{first:?}");

    // A message that the replica was about to ask for when it was killed has used up its one
    // resend: whether the upstream was asked is unknown.
    let states: BTreeMap<String, String> = world
        .overdue()
        .await
        .into_iter()
        .map(|row| (row.message_id.to_string(), row.state))
        .collect();
    let items = items(&world, &job_id).await;
    assert_eq!(items.len() as u64, first.items);
    for item in &items {
        let state = states[&item.message_id].as_str();
        match item.state.as_str() {
            "succeeded" => {
                assert_eq!((state, item.result.as_str()), ("confirmed", "confirmed by logistics"));
            }
            // A confirm may have come after the message was given up.
            "failed" => assert!(
                ["parked", "confirmed"].contains(&state) && item.result.contains("parked: "),
                "{item:?}, {state}"
            ),
            other => panic!("{other}: {item:?}"),
        }
    }
    let again = resend_all_parked(&world).await;
    let again = ended(&world, &again).await;
    assert_eq!(again.succeeded, again.items, "what had failed succeeds now: {again:?}");
    let confirmed = world.overdue().await.iter().filter(|row| row.state == "confirmed").count();
    assert_eq!(confirmed, ORDERS);
    world.audit().await;
}

#[tokio::test]
async fn an_upstream_with_a_token_answers_only_who_shows_it() {
    let mut world = World::new().await;
    by_hand(&mut world);
    world.start().await;
    world.logistics.kill();
    let order = world.place("an order").await;
    world.is_in_state(&order, "parked").await;
    world.destroy(ORDERS_QUEUE).await;
    let status = world.request_resend(&order.message_id.to_string()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    world.logistics.start().unwrap();
    let job_id = resend_all_parked(&world).await;
    let job = ended(&world, &job_id).await;
    assert_eq!(job.succeeded, 1, "the callback service shows it: {job:?}");
    world.audit().await;
}
