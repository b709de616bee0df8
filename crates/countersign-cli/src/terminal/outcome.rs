//! What a command has to say in the end.

use std::fmt;

use serde::Serialize;

/// What is printed on standard output, and the exit code.
#[derive(Debug)]
pub(crate) struct Told {
    /// Without the last line end.
    pub(crate) text: String,
    /// Exit code 0; otherwise 1: something was not done, or there are findings.
    pub(crate) good: bool,
}

impl Told {
    /// All is well.
    pub(crate) fn good(text: impl Into<String>) -> Self {
        Self { text: text.into(), good: true }
    }

    /// For a script, or for a person.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub(crate) fn either(
        as_json: bool,
        json: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<Self> {
        Ok(Self::good(if as_json { serde_json::to_string(json)? } else { text() }))
    }

    /// The same with this exit code.
    #[must_use]
    pub(crate) fn but(self, good: bool) -> Self {
        Self { good, ..self }
    }
}

/// The command line is wrong in a way that only the command itself sees: exit code 64.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}
