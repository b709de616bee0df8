//! The lines between a role and the benchmark.

use std::io::Write as _;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin};

/// A role's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// The role is connected and has declared what it needs.
    Ready,
    /// The role is done with this many messages.
    Done(u64),
}

impl News {
    /// Writes the line.
    ///
    /// # Errors
    /// When the benchmark has ended.
    pub(crate) fn say(self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match self {
            Self::Ready => writeln!(out, "ready")?,
            Self::Done(count) => writeln!(out, "done {count}")?,
        }
        out.flush()?;
        Ok(())
    }
}

impl FromStr for News {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        match line.split_once(' ') {
            None if line == "ready" => Ok(Self::Ready),
            Some(("done", count)) => Ok(Self::Done(count.parse().context("no count")?)),
            _ => bail!("a role said {line:?}"),
        }
    }
}

/// The benchmark's orders: each is a number of messages to publish.
pub(crate) struct Orders(Lines<BufReader<Stdin>>);

impl Orders {
    pub(crate) fn open() -> Self {
        Self(BufReader::new(tokio::io::stdin()).lines())
    }

    /// The next order; `None` when the role has to end.
    pub(crate) async fn next(&mut self) -> Result<Option<u64>> {
        match self.0.next_line().await? {
            Some(line) => Ok(Some(line.parse().with_context(|| format!("no order: {line:?}"))?)),
            None => Ok(None),
        }
    }

    /// Waits until the role has to end.
    pub(crate) async fn end(&mut self) -> Result<()> {
        while self.next().await?.is_some() {}
        Ok(())
    }
}

/// How often a role reports its count.
const SAY_EVERY: Duration = Duration::from_millis(10);

/// Counts messages, and reports the count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicU64>);

impl Count {
    /// Counts one more message.
    pub(crate) fn one(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The count.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Reports the count whenever it has changed, for ever.
    ///
    /// # Errors
    /// When the benchmark has ended.
    pub(crate) async fn keep_saying(&self) -> Result<()> {
        let mut ticks = tokio::time::interval(SAY_EVERY);
        let mut said = 0;
        loop {
            ticks.tick().await;
            let count = self.get();
            if count != said {
                News::Done(count).say()?;
                said = count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        assert_eq!("ready".parse::<News>().unwrap(), News::Ready);
        assert_eq!("done 17".parse::<News>().unwrap(), News::Done(17));
        for line in ["", "done", "done x", "ready 1"] {
            assert!(line.parse::<News>().is_err(), "{line:?}");
        }
    }
}
