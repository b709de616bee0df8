//! A temporary folder that goes away, with every process started in it, when this process ends.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result};

/// The folder's file in which processes leave their numbers; see [`crate::Process`].
const PROCESSES: &str = "processes";

/// A temporary folder, and the life of the processes in it.
///
/// The folder ends with the value, or with this process, *however* that ends: by returning, by a
/// panic, by Ctrl-C, by SIGKILL. A small shell process, the caretaker, holds the reading end of a
/// pipe whose writing end only this process has. When the pipe closes, the caretaker stops the
/// processes that still run in the folder and removes it. (The kernel's own way, a parent-death
/// signal, follows the *thread* that started a process and only that process itself. So it suits
/// neither test threads nor servers that start processes of their own.)
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    caretaker: Mutex<Child>,
}

/// The caretaker's script. It lies in the folder, too, under this name.
const CARETAKER: (&str, &str) = ("caretaker", include_str!("caretaker.sh"));

impl Folder {
    /// Makes a folder named `countersign-<purpose>-…` in the system's temporary folder.
    ///
    /// # Errors
    /// If the folder cannot be made, or no shell can be started.
    pub fn create(purpose: &str) -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix(&format!("countersign-{purpose}-")).tempdir().context(
                "no temporary folder can be made: set TMPDIR to a folder that can be written",
            )?;
        // Other users may walk through the folder, not list it: Postgres runs as another user than
        // root.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o711))?;
        std::fs::create_dir(folder.path().join(PROCESSES))?;
        let (name, script) = CARETAKER;
        std::fs::write(folder.path().join(name), script)?;
        let caretaker = Command::new("/bin/sh")
            .arg(folder.path().join(name))
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // The caretaker leaves the terminal's foreground group, so that Ctrl-C does not reach
            // it.
            .process_group(0)
            .spawn()
            .context("/bin/sh could not be started")?;
        Ok(Self { path: folder.keep(), caretaker: Mutex::new(caretaker) })
    }

    /// The folder's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The output of all processes of this name, over all their starts.
    #[must_use]
    pub fn log_of(&self, name: &str) -> String {
        read(&self.log_path(name))
    }

    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.log"))
    }

    pub(crate) fn processes(&self) -> PathBuf {
        self.path.join(PROCESSES)
    }
}

/// A log as text; empty while there is none.
pub(crate) fn read(log: &Path) -> String {
    std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

impl Drop for Folder {
    fn drop(&mut self) {
        let caretaker = self.caretaker.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(caretaker.stdin.take());
        // The caretaker gives every process two seconds to stop. If waiting for it fails, there is
        // no remedy here.
        let _ = caretaker.wait();
    }
}
