//! The one broker and the one Postgres that all tests of a run share.

use anyhow::{Context as _, Result, bail};
use tokio::sync::OnceCell;

use crate::broker::{Broker, BrokerAddress, BrokerSettings};
use crate::postgres::{Postgres, PostgresAddress, PostgresSettings};

/// `USER:PASSWORD@AMQP_PORT,MANAGEMENT_PORT`: set by `countersign-testbed run`.
const BROKER_VARIABLE: &str = "COUNTERSIGN_TESTBED_RABBITMQ";
/// `USER:PASSWORD@PORT`: set by `countersign-testbed run`.
const POSTGRES_VARIABLE: &str = "COUNTERSIGN_TESTBED_POSTGRES";

/// The RabbitMQ and the Postgres that a run shares.
#[derive(Debug)]
pub struct Servers {
    broker: BrokerAddress,
    postgres: PostgresAddress,
    // `None` when the servers belong to the `countersign-testbed run` around this process.
    _own: Option<(Broker, Postgres)>,
}

impl Servers {
    /// The servers of the `countersign-testbed run` that this process is part of. Without one, they
    /// are started once per process and stopped at its end.
    ///
    /// # Errors
    /// If they cannot be started.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Servers> = OnceCell::const_new();
        SHARED
            .get_or_try_init(async || match Self::given()? {
                Some(servers) => Ok(servers),
                None => Self::start().await,
            })
            .await
    }

    /// Starts both servers, for as long as the value lives.
    ///
    /// # Errors
    /// If they cannot be started.
    pub async fn start() -> Result<Self> {
        let (broker, postgres) = tokio::try_join!(
            Broker::start(BrokerSettings::default()),
            Postgres::start(PostgresSettings::default())
        )?;
        Ok(Self {
            broker: broker.address().clone(),
            postgres: postgres.address().clone(),
            _own: Some((broker, postgres)),
        })
    }

    /// The broker's ports and administrator.
    #[must_use]
    pub fn broker(&self) -> &BrokerAddress {
        &self.broker
    }

    /// The Postgres server's port and superuser.
    #[must_use]
    pub fn postgres(&self) -> &PostgresAddress {
        &self.postgres
    }

    /// The environment that a child process needs to share the servers.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 2] {
        let BrokerAddress { amqp_port, management_port, user, password } = &self.broker;
        let broker = format!("{user}:{password}@{amqp_port},{management_port}");
        let PostgresAddress { port, user, password } = &self.postgres;
        [(BROKER_VARIABLE, broker), (POSTGRES_VARIABLE, format!("{user}:{password}@{port}"))]
    }

    fn given() -> Result<Option<Self>> {
        let (broker, postgres) =
            match (std::env::var_os(BROKER_VARIABLE), std::env::var_os(POSTGRES_VARIABLE)) {
                (Some(broker), Some(postgres)) => (broker, postgres),
                (None, None) => return Ok(None),
                _ => bail!("set both {BROKER_VARIABLE} and {POSTGRES_VARIABLE}, or none"),
            };
        let broker = broker.to_str().and_then(read_broker).with_context(|| {
            format!("{BROKER_VARIABLE} is not USER:PASSWORD@AMQP_PORT,MANAGEMENT_PORT")
        })?;
        let postgres = postgres
            .to_str()
            .and_then(read_postgres)
            .with_context(|| format!("{POSTGRES_VARIABLE} is not USER:PASSWORD@PORT"))?;
        Ok(Some(Self { broker, postgres, _own: None }))
    }
}

fn read_broker(text: &str) -> Option<BrokerAddress> {
    let (who, ports) = text.rsplit_once('@')?;
    let (user, password) = who.split_once(':')?;
    let (amqp, management) = ports.split_once(',')?;
    Some(BrokerAddress {
        amqp_port: amqp.parse().ok()?,
        management_port: management.parse().ok()?,
        user: user.to_owned(),
        password: password.to_owned(),
    })
}

fn read_postgres(text: &str) -> Option<PostgresAddress> {
    let (who, port) = text.rsplit_once('@')?;
    let (user, password) = who.split_once(':')?;
    Some(PostgresAddress {
        port: port.parse().ok()?,
        user: user.to_owned(),
        password: password.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_down_is_read_back() {
        let broker = BrokerAddress {
            amqp_port: 1,
            management_port: 2,
            user: "testbed".into(),
            password: "pa55".into(),
        };
        let postgres =
            PostgresAddress { port: 3, user: "postgres".into(), password: "w0rd".into() };
        let servers = Servers { broker: broker.clone(), postgres: postgres.clone(), _own: None };
        let [(_, first), (_, second)] = servers.environment();
        assert_eq!(read_broker(&first), Some(broker));
        assert_eq!(read_postgres(&second), Some(postgres));
    }
}
