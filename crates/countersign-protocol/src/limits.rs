//! What every envelope keeps to: its version, its size and the length of a reason.

/// The version of the wire contract that this crate reads and writes.
pub const VERSION: u64 = 1;

/// The largest body, in bytes. RabbitMQ 4 refuses messages over 16 MiB by closing the channel, and
/// with it every publisher confirm in flight: stay far below.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// The most entries in one envelope: one statement of the callback service takes several full envelopes.
pub const MAX_ENTRIES: usize = 1_000;

/// The longest reason, in characters. A longer one is cut, because a reason also travels in a header, and
/// headers have to fit into one frame.
pub const MAX_REASON_CHARS: usize = 1_000;

/// A reason as it can be stored and shown: control characters replaced, cut to
/// [`MAX_REASON_CHARS`].
#[must_use]
pub fn clean_reason(text: &str) -> String {
    let clean = |c: char| match c {
        '\n' | '\t' => c,
        // Postgres stores no NUL, and a terminal obeys the others.
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().take(MAX_REASON_CHARS).map(clean).collect()
}
