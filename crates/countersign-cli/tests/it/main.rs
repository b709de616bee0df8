//! The commands as they are typed.

#![expect(clippy::unwrap_used, reason = "a test stops where something is not what it must be")]

mod program;

mod answers;

mod quarantine;
