//! A question to the operator at the terminal, and words on the side.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use crate::terminal::output::UsageError;

/// Whether the operator agrees.
///
/// # Errors
/// When standard input is no terminal: a script has to say `--yes`.
pub(crate) fn agrees(question: &str) -> anyhow::Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(UsageError(
            "no operator is at the terminal to agree: add --yes, or --dry-run to only look"
                .to_owned(),
        )
        .into());
    }
    let mut stderr = std::io::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Writes a line to standard error: standard output is for results.
pub(crate) fn tell(line: &str) {
    // If standard error is closed, there is no other place for the line.
    let _ = writeln!(std::io::stderr(), "{line}");
}
