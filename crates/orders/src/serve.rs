//! Orders from its start to its end.

use anyhow::Context;
use countersign_producer::{
    ExchangeKind, PoolSettings, ProducerSettings, Publisher, Sweeper, connect, migrate, prepare,
    upstream,
};
use countersign_runtime::Process;
use sqlx::PgPool;
use tonic::service::Routes;

use crate::config::Config;
use crate::grpc::orders_server::OrdersServer;
use crate::order::{self, EXCHANGE, Orders};
use crate::place::OrderService;

/// Serves orders until the process has to stop.
///
/// # Errors
/// When the database cannot be migrated, or the address not be listened on.
pub async fn serve(config: Config, process: Process) -> anyhow::Result<()> {
    let shutdown = process.shutdown.clone();
    // `None`: it has to stop while it still waits for its servers, with nothing in hand.
    let sweep = config.sweep.clone();
    let Some(started) = shutdown.run_until_cancelled(start(config, &process)).await else {
        return Ok(());
    };
    let (publisher, pool) = started?;
    let sweeping = sweep.map(|settings| {
        let sweeper = Sweeper::new(publisher.clone(), pool.clone(), settings);
        tokio::spawn(sweeper.run(shutdown.clone()))
    });
    let pulse = publisher.pulse(&pool);
    let routes = Routes::new(OrdersServer::new(OrderService {
        publisher: publisher.clone(),
        pool: pool.clone(),
    }))
    .add_service(upstream(publisher.clone(), pool, Orders));
    process.keep_ready(std::future::ready(()), pulse);
    let descriptors = [crate::grpc::DESCRIPTOR, countersign_producer::DESCRIPTOR];
    process.serve_grpc(routes, &descriptors).await?;
    publisher.close(process.drain / 2).await;
    if let Some(sweeping) = sweeping {
        // The publisher is closed: there is nothing that it could wait for.
        sweeping.await.context("the sweep failed")?;
    }
    Ok(())
}

async fn start(config: Config, process: &Process) -> anyhow::Result<(Publisher, PgPool)> {
    let mut connections = PoolSettings::new(process.name);
    connections.max_connections = 20;
    let pool = connect(&config.database, connections).await;
    migrate(&pool, order::migrator()).await.context("cannot migrate the orders")?;

    let mut settings = ProducerSettings::new(config.upstream, config.check_delay, config.consumers)
        .with_exchange(EXCHANGE, ExchangeKind::Topic);
    settings.token = config.token;
    settings.longest_transaction = config.longest_transaction;
    settings.armed_max_age = config.longest_transaction / 2;
    let database = prepare(&pool, settings.retention, process.shutdown.clone())
        .await
        .context("cannot enlist messages in this database")?;
    settings.database = Some(database);
    let publisher = Publisher::start(config.broker, settings)?;
    publisher.ready().await;
    Ok((publisher, pool))
}
