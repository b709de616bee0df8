//! The messages that `replay` and `drop` act on.

use clap::Args;

use super::filter::Filter;
use super::held::Held;
use super::item::Body;
use crate::connect::broker::Broker;
use crate::terminal::output::UsageError;

/// The flags that `replay` and `drop` share.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    #[command(flatten)]
    pub(crate) broker: Broker,
    #[command(flatten)]
    filter: Filter,
    /// Takes every message in quarantine
    #[arg(long)]
    all: bool,
    /// Shows the messages that would be taken, and changes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl Chosen {
    /// Takes the chosen messages in hand.
    ///
    /// # Errors
    /// When the command line names none or contradicts itself, or the broker does not answer.
    pub(crate) async fn hold(&self) -> anyhow::Result<Held> {
        let wrong = match (self.filter.is_empty(), self.all) {
            (true, false) => {
                "say which ones: by --reason, --source, --app-id, --older-than, --newer-than or --id, or --all"
            }
            (false, true) => "--all means every message: leave it out, or the other flags",
            _ => {
                return Held::gather(&self.broker, &self.filter, usize::MAX, &Body::Beginning)
                    .await;
            }
        };
        Err(UsageError(wrong.to_owned()).into())
    }
}
