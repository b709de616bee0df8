//! Message ids of any age.

use std::time::Duration;

use countersign_protocol::{MessageId, UnixMillis};

/// An id that no message has, as if made now.
#[must_use]
pub fn id_at(moment: UnixMillis) -> MessageId {
    MessageId::from_parts(moment, std::array::from_fn(|_| fastrand::u8(..)))
}

/// An id that no message has, as if made this long ago.
#[must_use]
pub fn id_of_age(age: Duration) -> MessageId {
    id_at(MessageId::generate().time().before(age))
}
