//! Running the program.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::process::Command;

/// Runs it with an empty environment and nobody at the terminal: exit code, standard output,
/// standard error.
pub(crate) async fn countersign(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = program(arguments).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// The program, not yet started.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.args(arguments).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs it with `--json`; the exit code and what it printed.
pub(crate) async fn json(arguments: &[&str]) -> (Option<i32>, Value) {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let (code, text, why) = countersign(&arguments).await;
    let told = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{text}\n{why}"));
    (code, told)
}
