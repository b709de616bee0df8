//! What a person at a terminal reads, and is asked.

pub(crate) mod ask_person;
pub(crate) mod clock;
pub(crate) mod output;
pub(crate) mod page;
pub(crate) mod table;
