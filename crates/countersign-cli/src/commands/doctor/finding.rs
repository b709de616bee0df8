//! What a doctor says.

use serde::Serialize;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// How bad it is.
    pub(crate) severity: Severity,
    /// Where.
    pub(crate) subject: String,
    /// What.
    pub(crate) finding: String,
    /// What to do about it.
    pub(crate) fix: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// Messages are lost, late or not watched; or will be as soon as something else goes wrong.
    Error,
    /// Somebody should look at it.
    Warning,
    /// Good to know.
    Note,
}

/// The fix for what is missing in the broker, and is the callback service's to declare.
pub(crate) const RESTART_CALLBACK: &str =
    "restart the callback service: it declares what is missing when it connects";

/// An error.
pub(crate) fn error(
    subject: impl Into<String>,
    finding: impl Into<String>,
    fix: impl Into<String>,
) -> Finding {
    new(Severity::Error, subject, finding, fix)
}

/// A warning.
pub(crate) fn warning(
    subject: impl Into<String>,
    finding: impl Into<String>,
    fix: impl Into<String>,
) -> Finding {
    new(Severity::Warning, subject, finding, fix)
}

/// A note.
pub(crate) fn note(
    subject: impl Into<String>,
    finding: impl Into<String>,
    fix: impl Into<String>,
) -> Finding {
    new(Severity::Note, subject, finding, fix)
}

fn new(
    severity: Severity,
    subject: impl Into<String>,
    finding: impl Into<String>,
    fix: impl Into<String>,
) -> Finding {
    Finding { severity, subject: subject.into(), finding: finding.into(), fix: fix.into() }
}
