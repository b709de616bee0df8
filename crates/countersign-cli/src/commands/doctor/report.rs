//! The doctor's answer: findings, and where it looked.

use console::style;
use serde::Serialize;
use tonic::Code;

use super::clocks::Clock;
use super::finding::{Finding, Severity, error};
use crate::connect::address::refused;
use crate::terminal::table::quantity;

/// All that the doctor has to say.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) findings: Vec<Finding>,
    pub(crate) looked_at: Vec<String>,
    not_looked_at: Vec<NotLookedAt>,
    /// The clocks of broker and databases, compared when all are read.
    #[serde(skip)]
    pub(crate) clocks: Vec<Clock>,
}

#[derive(Debug, Serialize)]
struct NotLookedAt {
    what: String,
    why: String,
}

impl Report {
    /// Says that something was not looked at.
    pub(crate) fn skip(&mut self, what: &str, why: &str) {
        self.not_looked_at.push(NotLookedAt { what: what.to_owned(), why: why.to_owned() });
    }

    /// The callback service answered a question with this status.
    pub(crate) fn refused(&mut self, what: &str, status: &tonic::Status) {
        match status.code() {
            Code::Unimplemented => {
                self.skip(what, "the callback service is older than this program");
            }
            _ => self.findings.push(error(
                "the callback service",
                format!("it does not tell about {what}: {}", refused(status)),
                "read its log",
            )),
        }
    }

    /// Whether no finding is an error.
    pub(crate) fn is_good(&self) -> bool {
        self.count(Severity::Error) == 0
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// For a person: findings first, then where the doctor looked, then how many findings.
    pub(crate) fn print(&self) -> String {
        let mut lines = Vec::new();
        for Finding { severity, subject, finding, fix } in &self.findings {
            let word = match severity {
                Severity::Error => style("error  ").red().bold(),
                Severity::Warning => style("warning").yellow().bold(),
                Severity::Note => style("note   ").cyan().bold(),
            };
            lines.push(format!("{word}  {}: {finding}", style(subject).bold()));
            lines.push(format!("         → {fix}"));
        }
        if self.findings.is_empty() {
            lines.push("nothing wrong was found".to_owned());
        }
        lines.push(String::new());
        lines.extend(self.looked_at.iter().map(|what| format!("looked at {what}")));
        lines.extend(
            self.not_looked_at
                .iter()
                .map(|NotLookedAt { what, why }| format!("not looked at: {what} ({why})")),
        );
        lines.push(format!(
            "{}, {}, {}",
            quantity(self.count(Severity::Error), "error"),
            quantity(self.count(Severity::Warning), "warning"),
            quantity(self.count(Severity::Note), "note")
        ));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::{note, warning};
    use super::*;

    #[test]
    fn one_error_is_not_called_errors() {
        let mut report = Report::default();
        report.findings.push(error("a queue", "it is missing", "restart"));
        report.findings.push(warning("a table", "it ends soon", "look"));
        report.findings.push(warning("another table", "it ends soon", "look"));
        assert!(report.print().ends_with("\n1 error, 2 warnings, 0 notes"), "{}", report.print());
        assert!(!report.is_good());
        report.findings = vec![note("RabbitMQ", "it works", "upgrade")];
        assert!(report.is_good());
    }
}
