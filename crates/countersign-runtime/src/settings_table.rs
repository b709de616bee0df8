//! A program's settings as a Markdown table, for the page that lists them.

use std::fmt::Write as _;

use crate::setting::{DRAIN, LOG, LOG_FORMAT, Setting};

/// The settings that a program reads: its own, then those that every program reads.
pub(crate) fn known(own: &[Setting]) -> Vec<Setting> {
    own.iter().copied().chain([LOG, LOG_FORMAT, DRAIN]).collect()
}

/// A Markdown table of a program's settings, as its hidden subcommand `settings` prints it. `own` is
/// [`Program::settings`](crate::Program::settings); those of logs and draining are added.
#[must_use]
pub fn settings_table(own: &[Setting]) -> String {
    let mut table = "| setting | default | what it means |\n|---|---|---|\n".to_owned();
    for setting in known(own) {
        let default = match setting.default {
            None if setting.required => "required".to_owned(),
            None | Some("") => "not set".to_owned(),
            Some(text) => format!("`{text}`"),
        };
        let help = setting.help.replace('|', "\\|");
        // Writing to a String cannot fail.
        let _ = writeln!(table, "| `{}` | {default} | {help} |", setting.name);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_a_row_and_a_bar_does_not_end_a_cell() {
        let own = [Setting {
            name: "COUNTERSIGN_MODE",
            help: "fast|safe",
            default: Some(""),
            required: false,
            secret: false,
        }];
        let table = settings_table(&own);
        assert!(table.contains("| `COUNTERSIGN_MODE` | not set | fast\\|safe |\n"), "{table}");
        assert!(table.contains("| `COUNTERSIGN_DRAIN` | `8s` | "), "{table}");
        assert_eq!(table.lines().count(), 2 + known(&own).len());
    }
}
