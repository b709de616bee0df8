//! Log lines: which, and what they look like.

use std::io::IsTerminal as _;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// What log lines look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Text,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            other => Err(format!("{other:?} is neither json nor text")),
        }
    }
}

/// What is left out unless the filter says otherwise: lapin calls an orderly goodbye an error (what
/// happens to a connection is said by `countersign_amqp`), and sqlx says at each start that a table
/// exists already.
const QUIET: &str = "lapin=off,sqlx::postgres::notice=warn";

/// What is left out whatever the filter says: lapin logs the whole body of each returned message.
const NEVER: &str = "lapin::returned_messages=off";

/// Reads a filter such as `info,countersign_callback=debug`.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, String> {
    // Read alone first, so that an error quotes what the person wrote.
    EnvFilter::builder().parse(text).map_err(|e| e.to_string())?;
    EnvFilter::builder().parse(format!("{QUIET},{text},{NEVER}")).map_err(|e| e.to_string())
}

/// Starts writing log lines to standard error. To be called once.
pub(crate) fn start(filter: EnvFilter, format: Format) {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        Format::Json => lines.json().flatten_event(true).init(),
        Format::Text => lines.init(),
    }
}
