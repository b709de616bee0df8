//! The schemes that are compared.

use std::fmt;

use clap::ValueEnum;

/// A way to bring messages from a producer to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Scheme {
    /// Published with a publisher confirm, consumed, acked: the upstream never learns that it was processed.
    Unprotected,
    /// Armed, published, consumed, confirmed, recorded.
    Countersign,
    /// The same idea as the textbooks draw it: one check and one confirm per message, one insert and
    /// one look-up each.
    Textbook,
}

impl Scheme {
    pub(crate) const ALL: [Self; 3] = [Self::Unprotected, Self::Countersign, Self::Textbook];

    /// Its name on the command line, in JSON and in connection names.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Unprotected => "unprotected",
            Self::Countersign => "countersign",
            Self::Textbook => "textbook",
        }
    }
}

/// As a person reads it in a table.
impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unprotected => "no protection",
            Self::Countersign => "Countersign",
            Self::Textbook => "textbook",
        })
    }
}
