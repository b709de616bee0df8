//! Orders that two consumers have to confirm: logistics, and `billing`, which the test plays with
//! the SDK.

use countersign_consumer::{
    Consumer, ConsumerSettings, Delivery, ExchangeKind, Failure, Handler, Running,
};
use countersign_testbed::{Database, HEALED, Order, Servers, eventually};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::world::World;

const BILLING_QUEUE: &str = "billing.orders";

/// Bills each order: a row, without a unique key, so that a doubled effect would show.
struct Bill;

impl Handler for Bill {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), Failure> {
        let order: serde_json::Value = delivery.json()?;
        sqlx::query("INSERT INTO bill (order_id) VALUES ($1::text::uuid)")
            .bind(order["order_id"].as_str())
            .execute(tx)
            .await?;
        Ok(())
    }
}

/// The consumer `billing`, which the test can stop and start again.
struct Billing {
    broker: String,
    pool: PgPool,
    running: Option<Running>,
    _database: Database,
}

impl Billing {
    async fn running(world: &World) -> Self {
        let server = Servers::shared().await.unwrap().postgres();
        let database = Database::create(server).await.unwrap();
        let pool = database.pool().await.unwrap();
        sqlx::raw_sql("CREATE TABLE bill (order_id uuid NOT NULL)").execute(&pool).await.unwrap();
        let broker = world.vhost.url().to_owned();
        let mut billing = Self { broker, pool, running: None, _database: database };
        billing.start().await;
        billing
    }

    async fn start(&mut self) {
        let mut settings = ConsumerSettings::new("billing".parse().unwrap(), BILLING_QUEUE)
            .bound_to("orders", ExchangeKind::Topic, "order.placed");
        settings.concurrency = 2;
        let (address, pool) = (self.broker.parse().unwrap(), self.pool.clone());
        let billing = Consumer::new(address, settings).with_inbox(pool).handler(Bill);
        self.running = Some(billing.start(Default::default()).await.unwrap());
    }

    /// The deliveries in hand go back to the queue.
    async fn stop(&mut self, world: &World) {
        self.running = None;
        eventually("billing has gone", HEALED, async || {
            world.vhost.consumers(BILLING_QUEUE).await == 0
        })
        .await;
    }

    async fn bills(&self, order: &Order) -> i64 {
        self.count("SELECT count(*) FROM bill WHERE order_id = $1", order.order_id).await
    }

    async fn duplicates(&self, order: &Order) -> i64 {
        let sql = "SELECT coalesce(sum(duplicates), 0)::bigint FROM countersign.inbox
                   WHERE message_id = $1";
        self.count(sql, order.message_id).await
    }

    async fn count(&self, sql: &'static str, id: Uuid) -> i64 {
        sqlx::query_scalar(sql).bind(id).fetch_one(&self.pool).await.unwrap()
    }
}

async fn with_billing() -> (World, Billing) {
    let mut world = World::new().await;
    world.orders.set("COUNTERSIGN_CONSUMERS", "logistics,billing");
    world.start().await;
    let billing = Billing::running(&world).await;
    // Both consumers have been seen to process a message.
    let first = world.place("the first order").await;
    is_confirmed_by(&world, &first, &["billing", "logistics"]).await;
    (world, billing)
}

/// Waits until exactly these consumers have confirmed.
async fn is_confirmed_by(world: &World, order: &Order, consumers: &[&str]) {
    eventually(&format!("confirmed by {consumers:?}"), HEALED, async || {
        let message = world.message(order.message_id).await.map_err(|e| e.to_string())?;
        let mut by: Vec<_> = message.confirms.iter().map(|c| c.consumer.clone()).collect();
        by.sort();
        if by == consumers { Ok(()) } else { Err(format!("{by:?}")) }
    })
    .await;
}

#[tokio::test]
async fn destroyed_at_one_consumer_it_is_sent_again_for_that_one_and_the_other_sees_a_duplicate() {
    let (world, mut billing) = with_billing().await;
    billing.stop(&world).await;
    let order = world.place("an order").await;
    is_confirmed_by(&world, &order, &["logistics"]).await;
    world.destroy(BILLING_QUEUE).await;

    // The order's check comes due, and one confirm is not enough.
    let overdue = eventually("it is overdue", HEALED, async || {
        world.overdue_orders().await.into_iter().find(|row| row.message_id == order.message_id)
    })
    .await;
    assert_ne!(overdue.state, "confirmed");
    billing.start().await;

    let message = world.is_in_state(&order, "confirmed").await;
    is_confirmed_by(&world, &order, &["billing", "logistics"]).await;
    assert_eq!(message.consumers, ["billing", "logistics"]);
    assert!(message.resends >= 1, "nothing but a resend could bring it to billing: {message:?}");
    for event in message.history.iter().filter(|event| event.to_state == "asking") {
        assert_eq!(event.reason, "not confirmed by billing", "it names who is missing, alone");
    }
    assert_eq!(billing.bills(&order).await, 1);
    world.is_empty("logistics.orders").await;
    assert!(world.duplicates().await >= 1, "logistics saw it again");
    assert_eq!(world.shipments(&order).await, 1, "and took no second effect");
    world.audit().await;
}

#[tokio::test]
async fn a_confirm_that_one_of_two_consumers_lost_is_given_again_and_nothing_is_done_twice() {
    let (world, billing) = with_billing().await;
    // A message that both confirm now lies in the broker until it is destroyed.
    world.callback.kill();
    let order = world.place("an order").await;
    world.shipped(&order).await;
    eventually("billed", HEALED, async || billing.bills(&order).await == 1).await;
    world.destroy(crate::world::CONFIRM_QUEUE).await;
    world.callback.start().unwrap();

    world.is_in_state(&order, "confirmed").await;
    is_confirmed_by(&world, &order, &["billing", "logistics"]).await;
    for queue in ["logistics.orders", BILLING_QUEUE] {
        world.is_empty(queue).await;
    }
    assert!(world.duplicates().await + billing.duplicates(&order).await >= 1);
    assert_eq!((world.shipments(&order).await, billing.bills(&order).await), (1, 1));
    world.audit().await;
}
