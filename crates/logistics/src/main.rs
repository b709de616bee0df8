//! The example downstream: ships every order that was placed.

mod config;

mod shipments;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use countersign_consumer::{Consumer, ConsumerSettings, ExchangeKind, Running};
use countersign_postgres::{PoolSettings, connect, migrate};
use countersign_runtime::{Process, Program};
use tonic::service::Routes;

use crate::config::Config;
use crate::shipments::Ship;

/// How long a shipment may take.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let program = Program {
        name: "logistics",
        about: "Ships every order that was placed: one row in public.shipments for each.",
        settings: config::SETTINGS,
    };
    countersign_runtime::run(program, Config::read, serve)
}

async fn serve(config: Config, process: Process) -> anyhow::Result<()> {
    let work = async {
        let shutdown = process.shutdown.clone();
        // `None`: logistics has to stop while it still waits for its servers, and holds no delivery.
        if let Some(consumer) = shutdown.run_until_cancelled(start(config, &process)).await {
            let consumer = consumer?;
            process.keep_ready(std::future::ready(()), consumer.pulse());
            consumer.drained().await;
        }
        anyhow::Ok(())
    };
    // Logistics serves health and reflection alone.
    tokio::try_join!(work, process.serve_grpc(Routes::default(), &[]))?;
    Ok(())
}

async fn start(config: Config, process: &Process) -> anyhow::Result<Running> {
    let mut settings = ConsumerSettings::new("logistics".parse()?, "logistics.orders").bound_to(
        "orders",
        ExchangeKind::Topic,
        "order.placed",
    );
    // To ship an order takes milliseconds. The limit ends what waits for a database that is gone without
    // a word.
    settings.handler_timeout = Some(HANDLER_TIMEOUT);
    settings.drain = process.drain.mul_f32(0.9);
    let mut connections = PoolSettings::new(process.name);
    // One for each handler, and two for the inbox's partitions and its count of duplicates.
    connections.max_connections = u32::try_from(settings.concurrency)? + 2;
    let pool = connect(&config.database, connections).await;
    migrate(&pool, shipments::migrator()).await.context("cannot migrate the shipments")?;
    let consumer = Consumer::new(config.broker, settings).with_inbox(pool).handler(Ship);
    Ok(consumer.start(process.shutdown.clone()).await?)
}
