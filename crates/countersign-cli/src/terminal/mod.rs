//! What a person at a terminal sees, and is asked.

pub(crate) mod ask_person;

pub(crate) mod table;

pub(crate) mod clock;

pub(crate) mod output;

pub(crate) mod page;
