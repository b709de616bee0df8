//! Log lines: which are written, and in what format.

use std::io::IsTerminal as _;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// The format of log lines.
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

/// Lines that are left out unless the filter names them. lapin logs an orderly close as an error
/// (`countersign_amqp` logs what happens to a connection), and sqlx logs at each start that a table
/// exists already.
const QUIET: &str = "lapin=off,sqlx::postgres::notice=warn";

/// Lines that are left out whatever the filter says: lapin logs the whole body of each returned
/// message.
const NEVER: &str = "lapin::returned_messages=off";

/// Reads a filter such as `info,countersign_callback=debug`.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, String> {
    // The text is parsed alone first, so that an error quotes what the person wrote.
    EnvFilter::builder().parse(text).map_err(|e| e.to_string())?;
    EnvFilter::builder().parse(format!("{QUIET},{text},{NEVER}")).map_err(|e| e.to_string())
}

/// Starts to write log lines to standard error. To be called once.
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
