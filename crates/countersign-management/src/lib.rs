//! RabbitMQ's management API: the same client for the callback service, the doctor and the tests.
//!
//! AMQP says how many messages are ready; only this API says what consumers hold, which policies
//! apply and what the nodes report (<https://www.rabbitmq.com/docs/management>).
//!
//! No proxy is used, whatever `HTTP_PROXY` says: the API stands beside its broker, which is reached
//! without one as well, and its password must not pass through a proxy that was meant for the web.
//!
//! - [`ManagementUrl`]: where the API is, and as which user it is asked.
//! - [`Management`]: asks it.

mod url;

mod client;

mod error;

pub use client::{Answer, Management, Method};
pub use error::Error;
pub use url::{InvalidManagementUrl, ManagementUrl};
