//! A consumer, put together step by step.

use countersign_amqp::Address;
use countersign_protocol::Window;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::effect::{AtLeastOnce, Once};
use crate::error::Error;
use crate::handler::{BatchHandler, Handler, OneByOne};
use crate::inbox::Inbox;
use crate::launch::{Work, launch};
use crate::name_in_use::NameInUse;
use crate::running::Running;
use crate::settings::ConsumerSettings;

/// A consumer that does not run yet. It learns, in this order, whether it keeps an inbox, what its handler
/// is, and when it has to stop:
///
/// ```no_run
/// # use countersign_consumer::{Consumer, ConsumerSettings, Delivery, Failure, Handler};
/// # use sqlx::PgConnection;
/// # struct Ship;
/// # impl Handler for Ship {
/// #     async fn handle(&self, _: &mut PgConnection, _: &Delivery) -> Result<(), Failure> { Ok(()) }
/// # }
/// # async fn example(
/// #     address: countersign_amqp::Address,
/// #     settings: ConsumerSettings,
/// #     pool: sqlx::PgPool,
/// #     shutdown: tokio_util::sync::CancellationToken,
/// # ) -> Result<(), countersign_consumer::Error> {
/// Consumer::new(address, settings).with_inbox(pool).handler(Ship).run(shutdown).await
/// # }
/// ```
///
/// What is left out does not compile. A consumer says whether it keeps an inbox, because a consumer without
/// one promises less:
///
/// ```compile_fail,E0599
/// # use countersign_consumer::{Consumer, ConsumerSettings, Delivery, Failure, Handler};
/// # struct Ship;
/// # impl Handler for Ship {
/// #     async fn handle(&self, _: &mut sqlx::PgConnection, _: &Delivery) -> Result<(), Failure> { Ok(()) }
/// # }
/// # fn example(address: countersign_amqp::Address, settings: ConsumerSettings) {
/// Consumer::new(address, settings).handler(Ship); // with an inbox, or without?
/// # }
/// ```
///
/// It does not run without a handler:
///
/// ```compile_fail,E0599
/// # use countersign_consumer::{Consumer, ConsumerSettings};
/// # async fn example(address: countersign_amqp::Address, settings: ConsumerSettings, pool: sqlx::PgPool) {
/// Consumer::new(address, settings).with_inbox(pool).run(Default::default()).await; // by which handler?
/// # }
/// ```
///
/// A handler that writes on the inbox's transaction needs the inbox:
///
/// ```compile_fail,E0277
/// # use countersign_consumer::{Consumer, ConsumerSettings, Delivery, Failure, Handler};
/// # struct Ship;
/// # impl Handler for Ship {
/// #     async fn handle(&self, _: &mut sqlx::PgConnection, _: &Delivery) -> Result<(), Failure> { Ok(()) }
/// # }
/// # fn example(address: countersign_amqp::Address, settings: ConsumerSettings) {
/// Consumer::new(address, settings).without_inbox().handler(Ship); // on which transaction?
/// # }
/// ```
///
/// And so does a batch, whose messages share one transaction:
///
/// ```compile_fail,E0599
/// # use countersign_consumer::{BatchHandler, Consumer, ConsumerSettings};
/// # fn example(address: countersign_amqp::Address, settings: ConsumerSettings, ship: impl BatchHandler) {
/// Consumer::new(address, settings).without_inbox().batch_handler(ship);
/// # }
/// ```
#[must_use = "a consumer takes no delivery before it runs"]
pub struct Consumer<Step = Undecided> {
    address: Address,
    settings: ConsumerSettings,
    step: Step,
}

/// A [`Consumer`] that has to say whether it keeps an inbox.
#[derive(Debug)]
pub struct Undecided(());

/// A [`Consumer`] that keeps an inbox, and has no handler yet.
#[derive(Debug)]
pub struct WithInbox {
    pool: PgPool,
}

/// A [`Consumer`] that keeps no inbox, and has no handler yet.
#[derive(Debug)]
pub struct WithoutInbox(());

/// A [`Consumer`] that can run.
pub struct Ready(Start);

/// How a consumer starts. It is boxed so that `Consumer<Ready>` is one type that a program can name, whatever
/// its handler is.
type Start = Box<dyn FnOnce(Address, ConsumerSettings, CancellationToken) -> Starting + Send>;
type Starting = BoxFuture<'static, Result<Running, Error>>;

impl Consumer {
    /// A consumer of the broker at `address`.
    pub fn new(address: Address, settings: ConsumerSettings) -> Self {
        Self { address, settings, step: Undecided(()) }
    }

    /// The consumer keeps an inbox in the database of `pool`: each message takes effect once.
    pub fn with_inbox(self, pool: PgPool) -> Consumer<WithInbox> {
        self.next(WithInbox { pool })
    }

    /// The consumer keeps no inbox and needs no database.
    ///
    /// For a downstream that is idempotent by itself: one that sets something to a value, or whose store
    /// knows the message's id. A message is acked when its handler has done its work and the broker has
    /// the confirm; retries, rejections and draining are as with an inbox.
    ///
    /// **Not promised, then: that a message takes effect once.** The handler runs again whenever the message is
    /// delivered again: after a crash between the effect and the ack, after a reconnect, after a resend
    /// because a confirm was lost, however long ago the handler ran first, and even while it still runs.
    pub fn without_inbox(self) -> Consumer<WithoutInbox> {
        self.next(WithoutInbox(()))
    }
}

impl Consumer<WithInbox> {
    /// The handler gets one message in each transaction.
    pub fn handler(self, handler: impl Handler) -> Consumer<Ready> {
        self.takes(OneByOne(handler), 1)
    }

    /// The handler gets up to [`max_batch`](ConsumerSettings::max_batch) messages in one transaction.
    pub fn batch_handler(self, handler: impl BatchHandler) -> Consumer<Ready> {
        let most = self.settings.max_batch;
        self.takes(handler, most)
    }

    fn takes(self, handler: impl BatchHandler, batch: usize) -> Consumer<Ready> {
        let pool = self.step.pool.clone();
        self.starting(move |address, settings, shutdown| async move {
            settings.check()?;
            let name = NameInUse::take(&address, &settings.name, &settings.queue)?;
            let abandon = CancellationToken::new().drop_guard();
            let (inbox, places) = Inbox::prepare(pool, &settings, abandon.token()).await?;
            let effect = Once { handler, inbox, handler_timeout: settings.handler_timeout };
            let work = Work { effect, places, batch, name };
            Ok(launch(address, settings, work, abandon, shutdown).await)
        })
    }
}

impl Consumer<WithoutInbox> {
    /// The handler gets one message, and works on a store of its own.
    pub fn handler(self, handler: impl Handler<()>) -> Consumer<Ready> {
        self.starting(move |address, settings, shutdown| async move {
            settings.check()?;
            let name = NameInUse::take(&address, &settings.name, &settings.queue)?;
            let effect = AtLeastOnce { handler, handler_timeout: settings.handler_timeout };
            // Ids of any time: this consumer remembers none, so it forgets none.
            let (_, places) = watch::channel(Ok(Window::ALL));
            let abandon = CancellationToken::new().drop_guard();
            let work = Work { effect, places, batch: 1, name };
            Ok(launch(address, settings, work, abandon, shutdown).await)
        })
    }
}

impl Consumer<Ready> {
    /// Runs the consumer until `shutdown`, then drains it. The same as [`start`](Self::start) and then
    /// [`drained`](Running::drained).
    ///
    /// # Errors
    /// When the settings are wrong, or the inbox cannot be made in this database.
    ///
    /// # Cancel safety
    /// Dropping the future stops the consumer at once: what is unfinished is delivered again.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        self.start(shutdown).await?.drained().await;
        Ok(())
    }

    /// Starts the consumer, and returns when it consumes: its inbox stands in its database, and its queues
    /// stand in the broker. It waits for servers that are away.
    ///
    /// When `shutdown` is cancelled it takes no more deliveries; [`Running::drained`] waits for the rest.
    ///
    /// # Errors
    /// When the settings are wrong, or the inbox cannot be made in this database.
    ///
    /// # Cancel safety
    /// Nothing is left behind but what was declared and migrated.
    pub async fn start(self, shutdown: CancellationToken) -> Result<Running, Error> {
        let Self { address, settings, step: Ready(start) } = self;
        start(address, settings, shutdown).await
    }
}

impl<Step> Consumer<Step> {
    fn next<Next>(self, step: Next) -> Consumer<Next> {
        Consumer { address: self.address, settings: self.settings, step }
    }

    fn starting<F>(
        self,
        start: impl FnOnce(Address, ConsumerSettings, CancellationToken) -> F + Send + 'static,
    ) -> Consumer<Ready>
    where
        F: Future<Output = Result<Running, Error>> + Send + 'static,
    {
        self.next(Ready(Box::new(move |address, settings, shutdown| {
            start(address, settings, shutdown).boxed()
        })))
    }
}
