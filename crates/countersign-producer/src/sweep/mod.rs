//! The sweep finds committed messages whose checks the broker lost, and arms fresh ones.

pub(crate) mod callback;
mod walk;

use std::time::{Duration, Instant};

use countersign_postgres::Database;
use countersign_protocol::envelope::MAX_ENTRIES;
use countersign_protocol::{MessageId, Name, UnixMillis};
use countersign_retry::{Retry, Stopped};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use uuid::Uuid;

use crate::record::EnlistedMessage;
use crate::send::publisher::Publisher;
use crate::sql;
use crate::sweep::callback::{Callback, CallbackAddress, Forgotten};
use crate::sweep::walk::Walk;

/// The settings of a [`Sweeper`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SweepSettings {
    /// The callback service's address.
    pub callback: CallbackAddress,
    /// The pause between two walks; each walk goes on where the last ended. After a walk that armed
    /// fresh checks the pause is at least the check delay and `slack`: until then the callback
    /// service cannot know them. Too short: both databases answer questions that find nothing. Too
    /// long: the sweep finds late what the broker lost. Default: 10 min.
    pub every: Duration,
    /// How long after the last such walk a walk begins with the oldest enlisted id again. That walk
    /// finds what the *callback service's database* lost in a failover. Default: 24 h.
    pub anew: Duration,
    /// How much longer than the check delay and the longest transaction the sweep leaves a message
    /// alone. It has to cover the difference between the clocks of upstream and database, and the
    /// time that the callback service takes to look a due check up. Too short: a message gets a
    /// second check when its first has just come due. Default: 1 min.
    pub slack: Duration,
    /// How many enlisted ids the sweep asks about in a second, at most. Default: 2,000.
    pub looks_per_second: u32,
}

impl SweepSettings {
    /// The defaults, for the callback service at this address.
    #[must_use]
    pub fn new(callback: CallbackAddress) -> Self {
        Self {
            callback,
            every: Duration::from_secs(10 * 60),
            anew: Duration::from_secs(24 * 60 * 60),
            slack: Duration::from_secs(60),
            looks_per_second: 2_000,
        }
    }
}

/// Walks `countersign.enlisted` from old to new, asks the callback service which messages it knows
/// neither as confirmed nor as overdue, and arms a fresh check for each of these.
/// Every other part rests on the check: it is armed before the commit, and the broker keeps it. A
/// broker that loses its disks loses checks, and with them the only reason to ask for the message.
/// The sweep restores the check and nothing else: when the check comes due, the callback service
/// asks for the message as for any other, within `COUNTERSIGN_RESEND_RATE`. So a message that the
/// broker lost with its check heals one check delay after the sweep found it. The fresh check names
/// the consumers that had to confirm the message when it was enlisted.
///
/// Let the sweep run always: it costs one look-up for 1,000 messages. After the *callback
/// service's* database failed over with loss, let the sweep begin with the oldest id: `UPDATE
/// countersign.sweep SET position = NULL, until = now()`.
///
/// A message that waits unconfirmed in a consumer's long queue gets no second check: its check came
/// due, so the callback service knows the message. Any number of processes may run a sweeper on the
/// same database: one of them walks at a time.
pub struct Sweeper {
    publisher: Publisher,
    pool: Database,
    callback: Callback,
    settings: SweepSettings,
    /// Names this process in the lease.
    holder: Uuid,
    /// The walk that this process is on.
    walk: Option<Walk>,
}

/// Why a walk stopped early.
enum Halt {
    Stopped,
    Trouble(String),
}

/// How many ids the sweep reads and asks about at once: as many as one question may hold.
const PAGE: u16 = 1_000;
/// How many checks the sweep has under way at most, and which part of the publisher's
/// `max_unconfirmed`: the rest of the room is for the upstream's own transactions.
const REARMED_AT_ONCE: usize = 100;
const PART_OF_UNCONFIRMED: usize = 4;
/// How long after its last sign of life another process takes a process's place. The lease is
/// longer than a question without an answer and the pause after it, so that a process that is alive
/// keeps its walk.
const LEASE: Duration = Duration::from_secs(60);

const _: () = assert!(PAGE as usize <= MAX_ENTRIES, "a page is one question");

impl Sweeper {
    /// A sweeper over the database that `pool` leads to; [`prepare`](crate::prepare) has prepared
    /// it.
    ///
    /// Call this within a Tokio runtime.
    #[must_use]
    pub fn new(publisher: Publisher, pool: PgPool, settings: SweepSettings) -> Self {
        let callback = Callback::new(&settings.callback);
        let holder = Uuid::now_v7();
        Self { publisher, pool: pool.into(), callback, settings, holder, walk: None }
    }

    /// Sweeps until `shutdown`. When the callback service, the broker or the database is away, the
    /// sweeper waits for it.
    ///
    /// # Cancel safety
    /// Better stopped by `shutdown`, between two steps; the next sweeper repeats a step that was
    /// cut off.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut retry = Retry::new("sweep for lost checks");
        loop {
            match self.walk(&shutdown).await {
                Ok(()) => retry.worked(),
                Err(Halt::Stopped) => return,
                Err(Halt::Trouble(why)) => match retry.wait(&why, &shutdown).await {
                    Ok(()) => continue,
                    Err(Stopped) => return,
                },
            }
            // The row in the database says when the next walk begins. After at most this pause the
            // process replaces one that died in a walk, and sees a position that an operator set.
            let pause = self.settings.every.min(LEASE);
            if wait(pause, &shutdown).await.is_err() {
                return;
            }
        }
    }

    /// Continues the walk that met trouble, or begins one if it is this process's turn.
    async fn walk(&mut self, shutdown: &CancellationToken) -> Result<(), Halt> {
        let mut walk = match self.walk.take() {
            Some(walk) => walk,
            None => match self.begin().await? {
                Some(walk) => walk,
                None => return Ok(()),
            },
        };
        let walked = self.go_on(&mut walk, shutdown).await;
        if walked.is_err() {
            self.walk = Some(walk);
        }
        walked
    }

    async fn begin(&self) -> Result<Option<Walk>, Halt> {
        let Self { pool, holder, settings, .. } = self;
        // The walk says that what it reads is committed in the database that the checks name.
        let meant = self.publisher.inner.settings.database;
        let here = sql::identity(pool).await?;
        if meant != Some(here) {
            let meant = meant.map_or_else(|| "none".to_owned(), |id| id.to_string());
            return Err(Halt::Trouble(format!(
                "the sweeper's pool leads to database {here}, the publisher was told {meant}: see ProducerSettings::database"
            )));
        }
        let upstream = self.upstream();
        let term = self.term();
        let lease = sql::take_sweep_lease(pool, upstream, *holder, term, settings.anew).await?;
        Ok(lease.map(|lease| Walk::new(lease.position, self.newest(lease.now))))
    }

    /// Walks up to the ids that are too young to ask about, as long as this process has the lease.
    async fn go_on(&self, walk: &mut Walk, shutdown: &CancellationToken) -> Result<(), Halt> {
        loop {
            let began = Instant::now();
            if !self.renew(walk, self.term()).await? {
                return Ok(());
            }
            let (from, newest) = (walk.reached(), walk.newest());
            let page = sql::enlisted_after(&self.pool, self.upstream(), from, newest, PAGE).await?;
            let (count, last) = (page.len(), page.last().map(|message| message.id));
            if let Some(last) = last {
                self.heal(page, walk).await?;
                walk.pass(last);
            }
            if count < usize::from(PAGE) {
                // What follows is another upstream's: the next walk need not read it again.
                walk.pass(MessageId::from_parts(walk.newest(), [0; 10]));
                break;
            }
            let pause = time_for(count, self.settings.looks_per_second);
            wait(pause.saturating_sub(began.elapsed()), shutdown).await?;
        }
        if walk.too_old > 0 {
            warn!(
                count = walk.too_old,
                "enlisted messages are older than the callback service keeps confirms: whether they were confirmed is not known any more"
            );
        }
        // The other processes keep the pause, too.
        self.renew(walk, self.pause_after(walk)).await?;
        Ok(())
    }

    /// Asks about a page, and arms fresh checks for the messages that the callback service does not
    /// know.
    async fn heal(&self, mut page: Vec<EnlistedMessage>, walk: &mut Walk) -> Result<(), Halt> {
        let settings = &self.publisher.inner.settings;
        for message in page.iter_mut().filter(|message| message.consumers.is_empty()) {
            message.consumers.clone_from(&settings.consumers);
        }
        let asked = self.callback.find_forgotten(settings, &page).await;
        let Forgotten { ids, too_old, contradicted } = asked.map_err(Halt::Trouble)?;
        if let Some(first) = contradicted.first() {
            error!(
                count = contradicted.len(), message_id = %first,
                "these messages are committed here, and the callback service was told otherwise; this is one. An upstream has answered for another: are its addresses right? The callback service asks for them again if this upstream shows its token"
            );
        }
        walk.too_old += too_old;
        let forgotten = walk.ask(page, &ids);
        let Some(first) = forgotten.first() else { return Ok(()) };
        warn!(
            count = forgotten.len(), message_id = %first.id,
            "the callback service knows neither confirms nor due checks of these messages: arming fresh checks; this is one"
        );
        for some in forgotten
            .chunks(REARMED_AT_ONCE.min(settings.max_unconfirmed / PART_OF_UNCONFIRMED).max(1))
        {
            let checks = some.iter().map(|message| (message.id, message.consumers.clone()));
            self.publisher.rearm(checks).await.map_err(Halt::Trouble)?;
            walk.rearmed(some[some.len() - 1].id);
        }
        Ok(())
    }

    /// Stores how far the walk is, and keeps the other processes out for `term`. Returns `false`
    /// when one of them has the lease, or an operator has set the position.
    async fn renew(&self, walk: &mut Walk, term: Duration) -> Result<bool, Halt> {
        let (from, to) = (walk.stored(), walk.settled());
        let upstream = self.upstream();
        let renewed =
            sql::renew_sweep_lease(&self.pool, upstream, self.holder, from, to, term).await?;
        if renewed {
            walk.store();
        }
        Ok(renewed)
    }

    fn upstream(&self) -> &Name {
        &self.publisher.inner.settings.upstream
    }

    /// The time for which the process takes the lease: a page's pause comes on top.
    fn term(&self) -> Duration {
        LEASE + time_for(usize::from(PAGE), self.settings.looks_per_second)
    }

    /// The pause after a walk. After fresh checks were armed, the callback service cannot know them
    /// before they have come due: a walk that began earlier would arm them all again.
    fn pause_after(&self, walk: &Walk) -> Duration {
        let SweepSettings { every, slack, .. } = self.settings;
        let delay = self.publisher.inner.settings.tier.delay();
        if walk.has_rearmed() { every.max(delay + slack) } else { every }
    }

    /// The first time whose ids the sweep leaves alone: their checks need not have come due. A
    /// check is armed before its transaction begins, and so no later than the longest transaction
    /// after the id was made.
    fn newest(&self, now: UnixMillis) -> UnixMillis {
        let settings = &self.publisher.inner.settings;
        now.before(settings.tier.delay() + settings.longest_transaction + self.settings.slack)
    }
}

/// How long this many looks take at this rate.
fn time_for(count: usize, per_second: u32) -> Duration {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    Duration::from_secs(1).saturating_mul(count) / per_second.max(1)
}

async fn wait(pause: Duration, shutdown: &CancellationToken) -> Result<(), Halt> {
    let waited = shutdown.run_until_cancelled(tokio::time::sleep(pause)).await;
    waited.ok_or(Halt::Stopped)
}

impl From<sqlx::Error> for Halt {
    fn from(error: sqlx::Error) -> Self {
        Self::Trouble(format!("the database: {error}"))
    }
}

impl std::fmt::Debug for Sweeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sweeper").field("settings", &self.settings).finish_non_exhaustive()
    }
}
