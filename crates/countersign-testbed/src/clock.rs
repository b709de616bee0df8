//! A clock that a test moves while a process runs on it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::Folder;

/// The wall clock of processes that are started with its [`environment`](Self::environment), by libfaketime.
/// Their monotonic clock goes on as it is.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
    library: PathBuf,
    // Dropped last: the file lies in it.
    _folder: Folder,
}

impl Clock {
    /// A clock that is right.
    ///
    /// # Errors
    /// If libfaketime is not installed.
    pub fn right() -> Result<Self> {
        let folders = std::fs::read_dir("/usr/lib").context("/usr/lib cannot be read")?;
        let library = folders
            .filter_map(Result::ok)
            .map(|folder| folder.path().join("faketime/libfaketime.so.1"))
            .find(|library| library.exists())
            .context("libfaketime is not installed: ./test install does that")?;
        let folder = Folder::create("clock")?;
        let clock = Self { file: folder.path().join("offset"), library, _folder: folder };
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets the clock so many seconds ahead of the right time, or behind it.
    ///
    /// # Errors
    /// If the clock's file cannot be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        let offset = format!("{seconds:+}s");
        // A process reads the file at each look at its clock, so the file is exchanged as a whole.
        let next = self.file.with_extension("next");
        std::fs::write(&next, offset)?;
        readable(&next)?;
        std::fs::rename(&next, &self.file)?;
        Ok(())
    }

    /// The variables of a process that shall run on this clock.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

/// Postgres runs as another user.
fn readable(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644))?)
}
