//! The sweep: what the broker lost, and nobody would ever ask for, is found and put back.

pub(crate) mod callback;

pub(crate) mod put_back;

pub(crate) mod watched;

use std::time::{Duration, Instant};

use countersign_protocol::envelope::MAX_ENTRIES;
use countersign_protocol::{MessageId, UnixMillis};
use futures_util::future::join_all;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::answer::service::{self, LookUp};
use crate::send::publisher::Publisher;
use crate::source::MessageSource;
use crate::sql::{self, EnlistedMessage};
use crate::sweep::callback::{Callback, CallbackAddress};
use crate::sweep::put_back::{PutBack, put_back};
use crate::sweep::watched::Watched;

/// How a [`Sweeper`] sweeps.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SweepSettings {
    /// Where the callback service is.
    pub callback: CallbackAddress,
    /// The pause between two walks; each goes on where the last ended. Too short: both databases
    /// are asked for nothing, mostly. Too long: what the broker lost is found late. Default: 10 min.
    pub every: Duration,
    /// How long after it last did so a walk begins with the oldest enlisted id again. That finds what
    /// the *callback service's database* lost in a failover. Default: 24 h.
    pub anew: Duration,
    /// How much longer than its check delay and the longest transaction a message is left alone. It
    /// has to cover the difference between the clocks of upstream and database, and the time that the
    /// callback service takes to look a due check up. Too short: messages are put back whose checks
    /// have just come due. Default: 1 min.
    pub slack: Duration,
    /// How many enlisted ids are asked about in a second at most. Default: 2,000.
    pub looks_per_second: u32,
    /// How many messages are put back in a second at most. Too high: after a great loss consumers
    /// get all of it at once. Default: 200.
    pub put_back_per_second: u32,
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
            put_back_per_second: 200,
        }
    }
}

/// Walks `countersign.enlisted` from old to new, asks the callback service which messages nobody has
/// confirmed and nobody would ask for, and puts these through the flow again: a fresh check, then the
/// message. The consumers' inboxes make a message that was not lost after all harmless.
///
/// Everything else rests on the check: it is armed before the commit, and the broker keeps it. A
/// broker that loses its disks loses checks, and with them the only ones who would ask. Let the sweep
/// run always: it costs one look-up for 1,000 messages. After the *callback service's* database
/// failed over with loss, have it begin with the oldest id:
/// `UPDATE countersign.sweep SET position = NULL, until = now()`.
///
/// A message that waits unconfirmed in a consumer's long queue is not put back: its check came due,
/// so the callback service knows it. Any number of processes may run a sweeper on the same database:
/// one of them walks at a time.
pub struct Sweeper {
    publisher: Publisher,
    pool: PgPool,
    look_up: LookUp,
    callback: Callback,
    settings: SweepSettings,
    /// This process, among others.
    holder: Uuid,
    watched: Watched,
    next_walk: Instant,
    complaint: Option<String>,
}

/// Why a round ended before its end.
enum Halt {
    Stopped,
    Trouble(String),
}

/// How a walk ended.
enum Walk {
    /// At what is too young to be asked about.
    Ended,
    /// It is the turn of another process, or somebody wants it to begin anew.
    Elsewhere,
}

/// How many ids are read and asked about at once.
const PAGE: u16 = 1_000;
/// How many messages are put back at the same time.
const AT_ONCE: usize = 16;
/// How long after its last sign of life another process goes on in its place.
const LEASE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

const _: () = assert!(PAGE as usize <= MAX_ENTRIES, "a page is one question");

impl Sweeper {
    /// A sweeper over the database that `pool` leads to, which [`prepare`](crate::prepare) has
    /// prepared. `source` is the same as for [`upstream`](crate::upstream).
    ///
    /// Has to be called within a Tokio runtime.
    #[must_use]
    pub fn new(
        publisher: Publisher,
        pool: PgPool,
        source: impl MessageSource,
        settings: SweepSettings,
    ) -> Self {
        let look_up = service::by_enlistment(&publisher, pool.clone(), source);
        let callback = Callback::new(&settings.callback);
        // From the arming of a fresh check until it must have been looked up.
        let watched = Watched::new(publisher.inner.settings.tier.delay() + settings.slack);
        Self {
            publisher,
            pool,
            look_up,
            callback,
            settings,
            holder: Uuid::now_v7(),
            watched,
            next_walk: Instant::now(),
            complaint: None,
        }
    }

    /// Sweeps until `shutdown`. Whatever is away is waited for.
    ///
    /// # Cancel safety
    /// Better stopped by `shutdown`, between two steps; what is cut off is done again.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut failures: u32 = 0;
        loop {
            let pause = match self.round(&shutdown).await {
                Ok(()) => {
                    failures = 0;
                    self.nothing_is_wrong();
                    self.until_next_round()
                }
                Err(Halt::Stopped) => return,
                Err(Halt::Trouble(why)) => {
                    self.complain(why);
                    failures = failures.saturating_add(1);
                    FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(10)).min(LONGEST_PAUSE)
                }
            };
            if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    async fn round(&mut self, shutdown: &CancellationToken) -> Result<(), Halt> {
        self.look_after_watched(shutdown).await?;
        if self.next_walk <= Instant::now() {
            let pause = match self.walk(shutdown).await? {
                Walk::Ended => self.settings.every,
                // If the other one dies, its turn is free after the lease.
                Walk::Elsewhere => self.settings.every.min(LEASE),
            };
            self.next_walk = Instant::now() + pause;
        }
        Ok(())
    }

    fn until_next_round(&self) -> Duration {
        let next = self.watched.next_due().map_or(self.next_walk, |due| due.min(self.next_walk));
        next.saturating_duration_since(Instant::now())
    }

    /// From where the last walk ended up to what is old enough.
    async fn walk(&mut self, shutdown: &CancellationToken) -> Result<Walk, Halt> {
        let lease = LEASE + pause_after(usize::from(PAGE), self.settings.put_back_per_second);
        let turn = sql::take_turn(&self.pool, self.holder, lease, self.settings.anew).await?;
        let Some(turn) = turn else { return Ok(Walk::Elsewhere) };
        let (newest, mut position) = (self.newest(turn.now), turn.position);
        let mut too_old = 0;
        loop {
            let began = Instant::now();
            let mut page = sql::enlisted_after(&self.pool, position, newest, PAGE).await?;
            let Some(last) = page.last().map(|message| message.id) else { break };
            for message in page.iter_mut().filter(|message| message.consumers.is_empty()) {
                message.consumers.clone_from(&self.publisher.inner.settings.consumers);
            }
            let count = page.len();
            too_old += self.heal(page, shutdown).await?;
            if !self.advance(position, Some(last), lease).await? {
                return Ok(Walk::Elsewhere);
            }
            position = Some(last);
            if count < usize::from(PAGE) {
                break;
            }
            let pause = pause_after(count, self.settings.looks_per_second);
            wait(pause.saturating_sub(began.elapsed()), shutdown).await?;
            self.look_after_watched(shutdown).await?;
        }
        if too_old > 0 {
            warn!(
                count = too_old,
                "enlisted messages are older than the callback service keeps confirms: whether they were confirmed is not known any more"
            );
        }
        // Others wait for the next walk, too.
        self.advance(position, position, self.settings.every).await?;
        Ok(Walk::Ended)
    }

    /// Asks again about what was put back, when its fresh check must have been looked up.
    async fn look_after_watched(&mut self, shutdown: &CancellationToken) -> Result<(), Halt> {
        loop {
            let now = Instant::now();
            let due = self.watched.due(now, usize::from(PAGE));
            if due.is_empty() {
                return Ok(());
            }
            let told = self.ask(&due).await?;
            let lost = due.iter().filter(|message| told.unconfirmed.contains(&message.id));
            self.put_back_all(lost.cloned().collect(), shutdown).await?;
            self.watched.forget(&due, now);
        }
    }

    /// Puts back what nobody would ask for; says how many are too old to be known.
    async fn heal(
        &mut self,
        page: Vec<EnlistedMessage>,
        shutdown: &CancellationToken,
    ) -> Result<usize, Halt> {
        let told = self.ask(&page).await?;
        let is_lost = |message: &EnlistedMessage| {
            told.unconfirmed.contains(&message.id) && !self.watched.holds(message.id)
        };
        let lost: Vec<_> = page.into_iter().filter(is_lost).collect();
        self.put_back_all(lost, shutdown).await?;
        Ok(told.too_old)
    }

    async fn put_back_all(
        &mut self,
        lost: Vec<EnlistedMessage>,
        shutdown: &CancellationToken,
    ) -> Result<(), Halt> {
        let Some(first) = lost.first() else { return Ok(()) };
        warn!(
            count = lost.len(), message_id = %first.id,
            "nobody has confirmed these messages, and nobody would have asked for them: sending them again; this is one"
        );
        for some in lost.chunks(AT_ONCE) {
            let began = Instant::now();
            if self.watched.is_full() {
                return Err(Halt::Trouble("as much was put back as can be watched".to_owned()));
            }
            let each = some.iter().map(|message| {
                let attempt = self.watched.next_attempt(message.id);
                put_back(&self.publisher, &self.look_up, message, attempt)
            });
            let results = join_all(each).await;
            let mut trouble = None;
            for (message, result) in some.iter().zip(results) {
                match result {
                    PutBack::Armed => {
                        let attempt = self.watched.next_attempt(message.id);
                        self.watched.add(Instant::now(), message.clone(), attempt);
                    }
                    PutBack::NotWanted => {}
                    PutBack::NotNow(why) => trouble = Some(why),
                }
            }
            if let Some(why) = trouble {
                return Err(Halt::Trouble(why));
            }
            let pause = pause_after(some.len(), self.settings.put_back_per_second);
            wait(pause.saturating_sub(began.elapsed()), shutdown).await?;
        }
        Ok(())
    }

    async fn ask(&self, messages: &[EnlistedMessage]) -> Result<callback::Told, Halt> {
        let upstream = &self.publisher.inner.settings.upstream;
        self.callback.find_unconfirmed(upstream, messages).await.map_err(Halt::Trouble)
    }

    async fn advance(
        &self,
        from: Option<MessageId>,
        to: Option<MessageId>,
        lease: Duration,
    ) -> Result<bool, Halt> {
        Ok(sql::advance(&self.pool, self.holder, from, to, lease).await?)
    }

    /// Ids of this moment and later are left alone: their checks need not have come due. A check is
    /// armed before its transaction begins, and so no later than the longest transaction after the
    /// id was made.
    fn newest(&self, now: UnixMillis) -> UnixMillis {
        let settings = &self.publisher.inner.settings;
        now.before(settings.tier.delay() + settings.longest_transaction + self.settings.slack)
    }

    /// Once for each thing that is wrong.
    fn complain(&mut self, why: String) {
        if self.complaint.as_ref() != Some(&why) {
            warn!(why, "the sweep has to wait; trying again and again");
            self.complaint = Some(why);
        }
    }

    fn nothing_is_wrong(&mut self) {
        if self.complaint.take().is_some() {
            info!("the sweep goes on");
        }
    }
}

/// How long so many take at this rate.
fn pause_after(count: usize, per_second: u32) -> Duration {
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
