//! Asks the callback service about messages, and arms fresh checks for what it does not know.

use countersign_protocol::MessageId;
use countersign_protocol::envelope::MAX_ENTRIES;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::callback::Forgotten;
use super::{Halt, Sweeper};
use crate::record::EnlistedMessage;

/// How many checks the sweep has under way at most, and which part of the publisher's
/// `max_unconfirmed`: the rest of the room is for the upstream's own transactions.
const REARMED_AT_ONCE: usize = 100;
const PART_OF_UNCONFIRMED: usize = 4;

impl Sweeper {
    /// Asks about these messages, oldest first, and arms fresh checks. `noted` hears, after each step, up
    /// to which id all are known or armed, and whether some were armed. Returns how many are too old for
    /// an answer.
    pub(super) async fn look(
        &self,
        messages: Vec<EnlistedMessage>,
        noted: &mut (dyn FnMut(MessageId, bool) + Send),
        shutdown: &CancellationToken,
    ) -> Result<usize, Halt> {
        let settings = &self.publisher.inner.settings;
        let at_once = REARMED_AT_ONCE.min(settings.max_unconfirmed / PART_OF_UNCONFIRMED).max(1);
        let (mut messages, mut too_old) = (messages, 0);
        for message in messages.iter_mut().filter(|message| message.consumers.is_empty()) {
            message.consumers.clone_from(&settings.consumers);
        }
        for asked in messages.chunks(MAX_ENTRIES) {
            if shutdown.is_cancelled() {
                return Err(Halt::Stopped);
            }
            let answer = self.callback.find_forgotten(settings, asked).await;
            let answer = answer.map_err(Halt::Trouble)?;
            too_old += answer.too_old;
            say(&answer);
            let forgotten: Vec<&EnlistedMessage> =
                asked.iter().filter(|message| answer.ids.contains(&message.id)).collect();
            for some in forgotten.chunks(at_once) {
                let checks = some.iter().map(|message| (message.id, message.consumers.clone()));
                self.publisher.rearm(checks).await.map_err(Halt::Trouble)?;
                noted(some[some.len() - 1].id, true);
            }
            noted(asked[asked.len() - 1].id, false);
        }
        Ok(too_old)
    }
}

fn say(answer: &Forgotten) {
    let Forgotten { ids, contradicted, .. } = answer;
    if let Some(first) = contradicted.first() {
        error!(
            count = contradicted.len(), message_id = %first,
            "these messages are committed here, and the callback service was told otherwise; this is one. An upstream has answered for another: are its addresses right? The callback service asks for them again if this upstream shows its token"
        );
    }
    if let Some(first) = ids.first() {
        warn!(
            count = ids.len(), message_id = %first,
            "the callback service knows neither confirms nor due checks of these messages: arming fresh checks; this is one"
        );
    }
}
