//! Deliveries that have no place in the inbox. Pure.

use countersign_protocol::envelope::clean_reason;
use countersign_protocol::{MessageId, OutsideWindow, Window};

/// A delivery that no consumer can process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfit {
    /// Its id, if it has one to confirm.
    pub(crate) id: Option<MessageId>,
    /// What is wrong, for a person.
    pub(crate) reason: String,
}

/// The id of a delivery, if the inbox has a place for it.
pub(crate) fn admit(message_id: Option<&str>, window: Window) -> Result<MessageId, Unfit> {
    let unfit = |id, reason| Unfit { id, reason };
    let Some(text) = message_id else {
        return Err(unfit(None, "message_id: the delivery has none".to_owned()));
    };
    let id: MessageId = text.parse().map_err(|e| {
        let shown: String = text.chars().take(64).collect();
        unfit(None, clean_reason(&format!("message_id: {shown:?}: {e}")))
    })?;
    let reason = match window.admit(id) {
        Ok(()) => return Ok(id),
        Err(OutsideWindow::TooOld) => format!(
            "too old to know: the id is of {} ms since 1970, and the inbox remembers from {} on",
            id.time(),
            window.oldest
        ),
        Err(OutsideWindow::Ahead) => format!(
            "from the future: the id is of {} ms since 1970, and the inbox has places up to {}; is the sender's clock right?",
            id.time(),
            window.newest
        ),
    };
    Err(unfit(Some(id), reason))
}

#[cfg(test)]
mod tests {
    use countersign_protocol::UnixMillis;

    use super::*;

    fn at(ms: i64) -> MessageId {
        MessageId::from_parts(UnixMillis::from_ms(ms), [7; 10])
    }

    const WINDOW: Window =
        Window { oldest: UnixMillis::from_ms(1_000), newest: UnixMillis::from_ms(1_999) };

    #[test]
    fn an_id_is_admitted_where_the_inbox_has_a_partition_for_it() {
        for ms in [1_000, 1_001, 1_999] {
            assert_eq!(admit(Some(&at(ms).to_string()), WINDOW), Ok(at(ms)), "{ms}");
        }
    }

    #[test]
    fn an_id_outside_of_the_inbox_is_unfit_and_can_still_be_confirmed() {
        for (ms, reason) in
            [(999, "too old to know"), (0, "too old to know"), (2_000, "from the future")]
        {
            let unfit = admit(Some(&at(ms).to_string()), WINDOW).unwrap_err();
            assert_eq!(unfit.id, Some(at(ms)));
            assert!(unfit.reason.starts_with(reason), "{ms}: {}", unfit.reason);
        }
    }

    #[test]
    fn what_is_no_id_is_unfit_and_cannot_be_confirmed() {
        let version4 = "6f1c8a52-5a4e-4c9f-9d2e-0b8f7f0f3a11";
        for text in [None, Some(""), Some("17"), Some(version4), Some("\0\0")] {
            let unfit = admit(text, WINDOW).unwrap_err();
            assert_eq!(unfit.id, None, "{text:?}");
            assert!(unfit.reason.starts_with("message_id: "), "{}", unfit.reason);
        }
    }
}
