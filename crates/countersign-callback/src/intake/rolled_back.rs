//! Rolled-back notices: armings whose transactions upstreams say will never be committed, recorded
//! until their checks come due.
//!
//! A notice names an arming, and settles the check of that arming only. So a confirm of the same
//! message contradicts nothing: it was armed again, and that is another check.

use countersign_protocol::rolled_back::{RolledBackHeader, RolledBackMessage};
use countersign_protocol::window::MAX_AHEAD;
use countersign_protocol::{RolledBack, Unreadable, Window};

use crate::intake::{Read, Recorder, RefusedEntries};
use crate::ledger::{KEPT, Ledger, RolledBackArming};
use crate::rules::overdue::Key;

/// Records notices.
#[derive(Clone, Debug)]
pub(crate) struct Notices {
    /// Where notices are recorded.
    pub(crate) ledger: Ledger,
}

impl Recorder for Notices {
    type Entry = RolledBackArming;

    fn read(
        _: Option<&str>,
        body: &[u8],
        window: Window,
    ) -> Result<Read<RolledBackArming>, Unreadable> {
        let (notice, refused) = RolledBack::read(body, window)?;
        let refused = RefusedEntries::of(&notice, &refused);
        let RolledBack { header: RolledBackHeader { upstream }, entries } = notice;
        // An older id has no partition, and its check has come due. The window ends MAX_AHEAD after now.
        let oldest = window.newest.before(MAX_AHEAD + KEPT);
        let entry = |RolledBackMessage { id, arming }| RolledBackArming {
            key: Key { message_id: id, upstream: upstream.clone() },
            arming,
        };
        Ok(Read {
            refused,
            entries: entries
                .into_iter()
                .filter(|message| message.id.time() >= oldest)
                .map(entry)
                .collect(),
        })
    }

    fn print(entry: &RolledBackArming) -> Vec<u8> {
        let message = RolledBackMessage { id: entry.key.message_id, arming: entry.arming };
        let header = RolledBackHeader { upstream: entry.key.upstream.clone() };
        RolledBack::new(header, vec![message]).encode()
    }

    fn crash_point() {
        fail::fail_point!("callback.rollback_recorded", |_| std::process::abort());
    }

    async fn record(&self, entries: &[RolledBackArming]) -> Result<(), sqlx::Error> {
        self.ledger.record_rolled_back(entries).await
    }
}
