//! The output of a command.

use std::fmt;

use serde::Serialize;

/// A command's standard output and exit code.
#[derive(Debug)]
pub(crate) struct Output {
    /// Without the last line end.
    pub(crate) text: String,
    /// Exit code 0. Otherwise 1: the command left something undone, or has findings.
    pub(crate) is_good: bool,
}

impl Output {
    /// This text, with exit code 0.
    pub(crate) fn good(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_good: true }
    }

    /// JSON for a script, or text for a person; with exit code 0.
    ///
    /// # Errors
    /// When `json` cannot be written as JSON.
    pub(crate) fn json_or_text(
        as_json: bool,
        json: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<Self> {
        Ok(Self::good(if as_json { serde_json::to_string(json)? } else { text() }))
    }

    /// The same text, with exit code 0 only if `is_good`.
    #[must_use]
    pub(crate) fn good_if(self, is_good: bool) -> Self {
        Self { is_good, ..self }
    }
}

/// A command line that clap accepts and the command does not: exit code 64.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}
