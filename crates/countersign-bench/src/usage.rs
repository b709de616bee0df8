//! A process's usage, as Linux reports it.

use anyhow::{Context as _, Result};
use serde::Serialize;

/// How the tables name the process that records: the callback service, or the textbook scheme's ledger.
pub(crate) const SERVICE: &str = "callback";

/// Memory and processor time that a process has used since its start.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Usage {
    /// The process: `producer`, `consumer` or `callback`.
    pub(crate) process: &'static str,
    /// The most memory that was resident at once, in bytes.
    pub(crate) peak_resident_bytes: u64,
    /// Processor time, user and system, in milliseconds.
    pub(crate) processor_ms: u64,
}

impl Usage {
    /// Asks the kernel about a running process.
    ///
    /// # Errors
    /// If the process has ended.
    pub(crate) fn of(process: &'static str, pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::read_to_string(&path).with_context(|| format!("{process}: no {path}"))
        };
        Ok(Self {
            process,
            peak_resident_bytes: peak_resident(&read("status")?)
                .with_context(|| format!("{process}: no VmHWM in its status"))?,
            processor_ms: processor_ms(&read("stat")?)
                .with_context(|| format!("{process}: its stat cannot be read"))?,
        })
    }
}

/// `VmHWM`, the "high water mark" of resident memory; the kernel says "kB" and means 1,024 bytes.
fn peak_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024)
}

/// `utime` and `stime`, the 14th and 15th field of `stat`. The second is a name in brackets that may
/// hold anything.
fn processor_ms(stat: &str) -> Option<u64> {
    /// The kernel reports hundredths of a second on every Linux architecture that Rust's standard
    /// library supports.
    const MS_PER_TICK: u64 = 10;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * MS_PER_TICK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_bytes() {
        let status = "Name:\tx\nVmPeak:\t  999 kB\nVmHWM:\t   12 kB\nVmRSS:\t    3 kB\n";
        assert_eq!(peak_resident(status), Some(12 * 1_024));
        assert_eq!(peak_resident("VmRSS:\t3 kB\n"), None);
    }

    #[test]
    fn a_process_with_brackets_in_its_name_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 25 17 0 0 20 0 1 0 5 6 7";
        assert_eq!(processor_ms(stat), Some(420));
    }

    #[test]
    fn this_process_has_used_something() {
        let usage = Usage::of("producer", std::process::id()).unwrap();
        assert!(usage.peak_resident_bytes > 100_000, "{usage:?}");
    }
}
