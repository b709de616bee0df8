//! A finding of the doctor.

use serde::Serialize;

/// A fault, where it is and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// The queue, table, node or service that has the fault.
    pub(crate) subject: String,
    pub(crate) finding: String,
    /// The operator's next step.
    pub(crate) fix: String,
}

/// How bad a finding is; findings are shown in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// Messages are lost, late or not watched, or will be after the next failure.
    Error,
    /// An operator should look at it soon.
    Warning,
    /// Worth knowing; nothing has to be done.
    Note,
}

/// The fix for an exchange, queue or binding that the callback service declares and that is missing.
pub(crate) const RESTART_CALLBACK: &str =
    "restart the callback service: when it connects, it declares all that is missing";

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
