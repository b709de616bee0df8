//! The sweep finds committed messages whose checks the broker lost, and arms fresh ones.

pub(crate) mod callback;
mod head;
mod lag;
mod look;
mod settings;

pub use settings::SweepSettings;

use std::time::Duration;

use countersign_postgres::{Database, agree};
use countersign_protocol::{MessageId, UnixMillis};
use countersign_retry::{Retry, Stopped};
use sqlx::PgPool;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::send::publisher::Publisher;
use crate::sql;
use crate::sql::sweep::{BegunWalk, Turn};
use crate::sweep::callback::Callback;
use crate::sweep::head::{Head, Stretch, extend, place};
use crate::sweep::lag::{Lag, Progress};

/// Reads `countersign.enlisted`, asks the callback service which messages it knows neither as
/// confirmed nor as overdue, and arms a fresh check for each of these.
///
/// Every other part rests on the check: it is armed before the commit, and the broker keeps it. A
/// broker that loses its disks loses checks, and with them the only reason to ask for the message.
/// The sweep restores the check and nothing else: when the check comes due, the callback service
/// asks for the message as for any other, within `COUNTERSIGN_RESEND_RATE`. So a message that the
/// broker lost with its check heals one check delay after the sweep found it. The fresh check names
/// the consumers that had to confirm the message when it was enlisted.
///
/// The sweep has two places. The *head* stays as close behind the newest ids as their checks allow,
/// at whatever rate they come, and only goes forward. The *walk* goes from the oldest id to the newest
/// in the time that the head leaves, once a day: it finds what the callback service's *database* lost
/// in a failover. After such a loss, let it begin at once: `UPDATE countersign.sweep SET
/// walk_begun_at = NULL, walk_ended_at = NULL`.
///
/// Let the sweep run always: it costs one look-up for 1,000 messages. A message that waits unconfirmed
/// in a consumer's long queue gets no second check: its check came due, so the callback service knows
/// the message. Any number of processes may run a sweeper on the same database: for each upstream and
/// check delay, one of them sweeps at a time.
pub struct Sweeper {
    publisher: Publisher,
    pool: Database,
    callback: Callback,
    settings: SweepSettings,
    turn: Turn,
    /// While this process has the lease.
    head: Option<Head>,
    /// The walk that is under way, while this process has the lease.
    walk: Option<Walk>,
    lag: Lag,
}

/// A walk that is under way.
#[derive(Debug)]
struct Walk {
    stored: BegunWalk,
    /// The last place that it goes to: what was new when it began is the head's.
    end: MessageId,
    /// When the pause after its last page is over.
    next: Instant,
    too_old: usize,
}

/// Why a round stopped early.
enum Halt {
    Stopped,
    Trouble(String),
}

/// How many rows of the table one statement reads.
const PAGE: u16 = 10_000;
/// How long before the newest id to ask about the first head begins: what is older is the walk's.
const FIRST_HEAD: Duration = Duration::from_secs(60 * 60);
/// How many times as long as a page of the walk takes is the pause after it: the walk takes at most a
/// tenth of what the two databases can do.
const PAUSES: u32 = 9;
/// How long after its last sign of life another process takes a process's place, apart from the pause
/// between two rounds. It is longer than the questions of a page without an answer and the pause
/// after them, so that a process that is alive keeps its place.
const LEASE: Duration = Duration::from_secs(60);
/// How long the lease's end may take when the process stops: after it, the lease runs out by itself.
const RELEASED_WITHIN: Duration = Duration::from_secs(1);

impl Sweeper {
    /// A sweeper over the database that `pool` leads to; [`prepare`](crate::prepare) has prepared
    /// it.
    ///
    /// Call this within a Tokio runtime.
    #[must_use]
    pub fn new(publisher: Publisher, pool: PgPool, settings: SweepSettings) -> Self {
        let callback = Callback::new(&settings.callback);
        let of = &publisher.inner.settings;
        let turn = Turn { upstream: of.upstream.clone(), tier: of.tier, holder: Uuid::now_v7() };
        let (pool, lag) = (pool.into(), Lag::default());
        Self { publisher, pool, callback, settings, turn, head: None, walk: None, lag }
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
            let next = match self.round(&shutdown).await {
                Ok(next) => next,
                Err(Halt::Stopped) => break,
                Err(Halt::Trouble(why)) => match retry.wait(&why, &shutdown).await {
                    Ok(()) => continue,
                    Err(Stopped) => break,
                },
            };
            retry.worked();
            if wait_until(next, &shutdown).await.is_err() {
                break;
            }
        }
        // Another process need not wait for the lease's end. If nobody hears this, it does.
        let _ = timeout(RELEASED_WITHIN, self.turn.release(&self.pool)).await;
    }

    /// If it is this process's turn: brings the head to the newest ids, and goes on with the walk
    /// until the next round. Says when that is.
    async fn round(&mut self, shutdown: &CancellationToken) -> Result<Instant, Halt> {
        let Some(mut head) = (match self.head.take() {
            Some(head) => Some(head),
            None => self.take().await?,
        }) else {
            // After this pause the process replaces one that has died.
            return Ok(Instant::now() + self.settings.every.min(LEASE));
        };
        let is_ours = self.go_on(&mut head, shutdown).await;
        // After trouble the process goes on where it was.
        if !matches!(is_ours, Ok(false)) {
            self.head = Some(head);
        }
        let next = Instant::now() + self.settings.every;
        if is_ours? {
            self.walk_until(next, shutdown).await?;
        } else {
            self.walk = None;
        }
        Ok(next)
    }

    async fn take(&self) -> Result<Option<Head>, Halt> {
        // The sweep says that what it reads is committed in the database that the checks name.
        let meant = self.publisher.inner.settings.database;
        let here = sql::identity(&self.pool).await?;
        if meant != Some(here) {
            let meant = meant.map_or_else(|| "none".to_owned(), |id| id.to_string());
            return Err(Halt::Trouble(format!(
                "the sweeper's pool leads to database {here}, the publisher was told {meant}: see ProducerSettings::database"
            )));
        }
        Ok(self.turn.take(&self.pool, self.term()).await?.map(Head::new))
    }

    /// Brings the head to the newest ids. Returns `false` when this process has lost the lease.
    async fn go_on(&mut self, head: &mut Head, shutdown: &CancellationToken) -> Result<bool, Halt> {
        let mut too_old = 0;
        loop {
            let Some(now) = self.renew(head).await? else { return Ok(false) };
            // By a wrong clock the head would go past what is still to be committed, or back to the beginning.
            agree(now).map_err(|why| Halt::Trouble(why.to_string()))?;
            let newest = self.newest(now);
            head.begin_at(newest.before(FIRST_HEAD), newest);
            if let Some(stretch) = head.due(Instant::now()) {
                self.ask_again(head, stretch, shutdown).await?;
                continue;
            }
            let up_to = place(newest);
            let page = self.turn.page(&self.pool, head.reached(), up_to, PAGE).await?;
            let again_at = self.known_in();
            let noted = &mut |last, is_armed| match is_armed {
                true => head.armed(last, Instant::now(), Instant::now() + again_at),
                false => head.pass(last),
            };
            too_old += self.look(page.messages, noted, shutdown).await?;
            if let Some(last) = page.last {
                head.pass(last);
            }
            if !page.is_full {
                // What follows is too young.
                head.pass(up_to);
            }
            self.tell(head, newest, !page.is_full).await?;
            if !page.is_full {
                break;
            }
        }
        say_too_old(too_old);
        Ok(self.renew(head).await?.is_some())
    }

    /// Asks once more about ids of which some got a fresh check.
    async fn ask_again(
        &self,
        head: &mut Head,
        stretch: Stretch,
        shutdown: &CancellationToken,
    ) -> Result<(), Halt> {
        let (mut reached, mut armed_again) = (stretch.after, Vec::new());
        loop {
            if self.renew(head).await?.is_none() {
                // The next round finds out, too.
                return Ok(());
            }
            let page = self.turn.page(&self.pool, reached, stretch.last, PAGE).await?;
            let again_at = self.known_in();
            let noted = &mut |last, is_armed| {
                if is_armed {
                    let now = Instant::now();
                    extend(&mut armed_again, reached, last, now, now + again_at);
                }
                reached = Some(last);
            };
            self.look(page.messages, noted, shutdown).await?;
            reached = page.last.or(reached);
            if !page.is_full {
                head.settle(stretch, armed_again);
                return Ok(());
            }
        }
    }

    /// Goes on with the walk, page by page, until this moment or the walk's end.
    async fn walk_until(&mut self, end: Instant, shutdown: &CancellationToken) -> Result<(), Halt> {
        if self.walk.is_none() {
            let begun = self.turn.walk(&self.pool, self.settings.anew).await?;
            self.walk = begun.map(|stored| {
                let begun_at = UnixMillis::from_ms(stored.begun_at_us / 1_000);
                let end = place(self.newest(begun_at));
                Walk { stored, end, next: Instant::now(), too_old: 0 }
            });
        }
        while let Some(mut walk) = self.walk.take() {
            if walk.next >= end {
                self.walk = Some(walk);
                break;
            }
            wait_until(walk.next, shutdown).await?;
            let began = Instant::now();
            let page = self.turn.page(&self.pool, walk.stored.position, walk.end, PAGE).await?;
            let noted = &mut |last, _| walk.stored.position = Some(last);
            let looked = self.look(page.messages, noted, shutdown).await;
            if let (Ok(_), Some(last)) = (&looked, page.last) {
                walk.stored.position = Some(last);
            }
            let has_ended = looked.is_ok() && !page.is_full;
            walk.too_old += looked.as_ref().copied().unwrap_or(0);
            walk.next = Instant::now() + began.elapsed() * PAUSES;
            // What was looked at before the trouble need not be looked at again.
            let is_ours = self.turn.store_walk(&self.pool, walk.stored, has_ended).await?;
            if has_ended {
                say_too_old(walk.too_old);
            }
            if is_ours && !has_ended {
                self.walk = Some(walk);
            }
            looked?;
        }
        Ok(())
    }

    /// Stores how far the head is, and keeps the other processes out. Returns the database's time, or
    /// `None` when one of them has the lease, or an operator has set the place.
    async fn renew(&self, head: &mut Head) -> Result<Option<UnixMillis>, Halt> {
        let (from, to) = (head.stored(), head.settled());
        let now = self.turn.renew(&self.pool, from, to, self.term()).await?;
        if now.is_some() {
            head.store(to);
        }
        Ok(now)
    }

    /// Tells the callback service, and the log, how far the sweep is.
    async fn tell(
        &mut self,
        head: &Head,
        newest: UnixMillis,
        at_the_end: bool,
    ) -> Result<(), Halt> {
        let walk = self.walk.as_ref().map(|walk| walk.stored);
        let progress = Progress::of(head.reached(), newest, walk);
        self.lag.look(&progress);
        if self.lag.is_to_be_told(Instant::now(), at_the_end) {
            let settings = &self.publisher.inner.settings;
            self.callback.tell(settings, &progress).await.map_err(Halt::Trouble)?;
        }
        Ok(())
    }

    /// The time for which the process takes the lease: the pause until the next round comes on top.
    fn term(&self) -> Duration {
        LEASE.saturating_add(self.settings.every)
    }

    /// How long after its arming the callback service must have looked a check up.
    fn known_in(&self) -> Duration {
        self.publisher.inner.settings.tier.delay() + self.settings.slack
    }

    /// The first time whose ids the sweep leaves alone: their checks need not have come due. A
    /// check is armed before its transaction begins, and so no later than the longest transaction
    /// after the id was made.
    fn newest(&self, now: UnixMillis) -> UnixMillis {
        let settings = &self.publisher.inner.settings;
        now.before(settings.tier.delay() + settings.longest_transaction + self.settings.slack)
    }
}

fn say_too_old(count: usize) {
    if count > 0 {
        warn!(
            count,
            "enlisted messages are older than the callback service keeps confirms: whether they were confirmed is not known any more"
        );
    }
}

async fn wait_until(end: Instant, shutdown: &CancellationToken) -> Result<(), Halt> {
    let pause = sleep(end.saturating_duration_since(Instant::now()));
    shutdown.run_until_cancelled(pause).await.ok_or(Halt::Stopped)
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
