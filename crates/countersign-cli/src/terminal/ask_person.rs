//! Asking the person at the terminal.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use crate::terminal::output::UsageError;

/// Whether the person agrees.
///
/// # Errors
/// When there is no person: a script has to say `--yes`.
pub(crate) fn agrees(question: &str) -> anyhow::Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(UsageError(
            "nobody is there to agree: add --yes, or --dry-run to only look".to_owned(),
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

/// Tells the person something on the side: standard output is for results.
pub(crate) fn tell(line: &str) {
    // Standard error may be closed: there is nobody to tell then.
    let _ = writeln!(std::io::stderr(), "{line}");
}
