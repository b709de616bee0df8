//! A process of a run.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::role::wire::News;
use crate::usage::Usage;

/// How long a process may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// This program again, in a role. Dropping the value kills the process.
#[derive(Debug)]
pub(crate) struct RoleProcess {
    name: &'static str,
    process: Child,
    orders: ChildStdin,
    /// The role's last line.
    news: watch::Receiver<Option<News>>,
}

impl RoleProcess {
    /// Starts the process, and waits until it is ready.
    ///
    /// # Errors
    /// If the process does not become ready; it has written the reason to standard error.
    pub(crate) async fn start(name: &'static str, arguments: Vec<String>) -> Result<Self> {
        let program = std::env::current_exe().context("no path to this program")?;
        let mut process = Command::new(program)
            .args(["role", name])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} could not be started"))?;
        let orders = process.stdin.take().context("its standard input is piped")?;
        let mut said =
            BufReader::new(process.stdout.take().context("its output is piped")?).lines();
        let (sender, mut news) = watch::channel(None);
        tokio::spawn(async move {
            // The loop and its channel end when the process ends or says nonsense.
            while let Ok(Some(line)) = said.next_line().await {
                let Ok(news) = line.parse() else { break };
                sender.send_replace(Some(news));
            }
        });
        let ready = news.wait_for(Option::is_some);
        let ready = timeout(READY_WITHIN, ready).await.map(|heard| heard.is_ok());
        match ready {
            Ok(true) => Ok(Self { name, process, orders, news }),
            Ok(false) => bail!("{name} ended before it was ready"),
            Err(_) => bail!("{name} was not ready after {READY_WITHIN:?}"),
        }
    }

    /// Tells the role to publish this many messages.
    ///
    /// # Errors
    /// If the process is gone.
    pub(crate) async fn order(&mut self, messages: u64) -> Result<()> {
        let order = format!("{messages}\n");
        self.orders
            .write_all(order.as_bytes())
            .await
            .with_context(|| format!("{} takes no orders any more", self.name))
    }

    /// How many messages the role is done with.
    ///
    /// # Errors
    /// If the process has ended.
    pub(crate) fn done(&self) -> Result<u64> {
        ensure!(
            self.news.has_changed().is_ok(),
            "the {} ended in the middle of its work",
            self.name
        );
        match *self.news.borrow() {
            Some(News::Done(count)) => Ok(count),
            Some(News::Ready) | None => Ok(0),
        }
    }

    /// The process's usage so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let pid = self.process.id().with_context(|| format!("the {} has ended", self.name))?;
        Usage::of(self.name, pid)
    }
}

/// Where the callback service's program is: as given, or beside this one.
pub(crate) fn callback_program(given: Option<PathBuf>) -> Result<PathBuf> {
    let beside = || {
        let this = std::env::current_exe().context("no path to this program")?;
        anyhow::Ok(this.with_file_name("countersign-callback"))
    };
    let path = given.map_or_else(beside, Ok)?;
    ensure!(
        path.exists(),
        "there is no {}: build it with `cargo build --release -p countersign-callback`, or name another with --callback",
        path.display()
    );
    Ok(path)
}
