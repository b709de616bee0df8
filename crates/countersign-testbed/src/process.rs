//! A process that lives in a [`Folder`] and dies with it.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, kill_process, kill_process_group};
use tokio::time::Instant;

use crate::folder::{self, Folder};

/// How often a wait for a process's end looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The command of a process, and its surroundings.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The process's name in errors and log files.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables added to this process's environment, or the whole environment: see `bare`.
    pub environment: Vec<(String, String)>,
    /// Whether the process inherits nothing of this process's environment but `PATH`.
    pub bare: bool,
    /// The working directory: the folder itself if not given.
    pub current_dir: Option<PathBuf>,
    /// The signal that stops the process best when everything is torn down.
    pub stop_signal: Signal,
}

impl Launch {
    /// A process that runs `command` under the name `name`, killed when everything is torn down.
    pub fn new(
        name: impl Into<String>,
        command: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            name: name.into(),
            command: command.into_iter().map(Into::into).collect(),
            environment: Vec::new(),
            bare: false,
            current_dir: None,
            stop_signal: Signal::Kill,
        }
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }
}

/// The signals that tests and servers need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: stop in an orderly way.
    Term,
    /// SIGINT, as Ctrl-C sends it. A Postgres ends its sessions and stops.
    Int,
    /// SIGQUIT. A Postgres stops at once, as after a crash, but leaves no shared memory behind.
    Quit,
    /// SIGKILL: die now.
    Kill,
    /// SIGSTOP: freeze, with every socket open.
    Stop,
    /// SIGCONT: go on.
    Cont,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
        }
    }

    fn number(self) -> rustix::process::Signal {
        match self {
            Self::Term => rustix::process::Signal::TERM,
            Self::Int => rustix::process::Signal::INT,
            Self::Quit => rustix::process::Signal::QUIT,
            Self::Kill => rustix::process::Signal::KILL,
            Self::Stop => rustix::process::Signal::STOP,
            Self::Cont => rustix::process::Signal::CONT,
        }
    }
}

/// A running process, leader of a process group of its own. Dropping it kills the group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    log: PathBuf,
    record: PathBuf,
}

impl Process {
    /// Starts the process. Its output goes to a file in the folder; its standard input is empty.
    ///
    /// # Errors
    /// If it cannot be started: the program is missing, or may not be executed.
    pub fn start(folder: &Folder, launch: &Launch) -> Result<Self> {
        // The shell writes its own number down and then *becomes* the program, so there is no
        // moment in which the caretaker does not know of a running process.
        const REGISTER: &str = r#"echo "$1" >"$0/$$" && shift && exec "$@""#;
        let Some(program) = launch.command.first() else {
            bail!("{}: no program given", launch.name)
        };
        if program.contains('/') && !Path::new(program).exists() {
            bail!("{}: there is no {program}", launch.name);
        }
        let log = folder.log_path(&launch.name);
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("{} cannot be written", log.display()))?;
        let mut command = Command::new("/bin/sh");
        if launch.bare {
            let path = std::env::var_os("PATH");
            command.env_clear().envs(path.map(|path| ("PATH", path)));
        }
        let child = command
            .args(["-c", REGISTER])
            .arg(folder.processes())
            .arg(launch.stop_signal.name())
            .args(&launch.command)
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(launch.current_dir.as_deref().unwrap_or_else(|| folder.path()))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} could not be started", launch.name))?;
        let record = folder.processes().join(child.id().to_string());
        Ok(Self { name: launch.name.clone(), child, ended: None, log, record })
    }

    /// The process's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process's number, which is also its process group's.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends the process a signal; SIGKILL, SIGSTOP and SIGCONT go to the processes it started,
    /// too. A process that has ended gets none.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_some() {
            return;
        }
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else { return };
        // The process was not waited for, so the number still is its own. An error means that it
        // has ended since, or now runs as another user; then the caretaker has to stop it.
        let _ = match signal {
            Signal::Kill | Signal::Stop | Signal::Cont => kill_process_group(pid, signal.number()),
            Signal::Term | Signal::Int | Signal::Quit => kill_process(pid, signal.number()),
        };
    }

    /// How the process ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits for the process's end.
    ///
    /// # Errors
    /// If the process is still alive after `deadline`.
    ///
    /// # Cancel safety
    /// The future can be dropped at any time: it only looks.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!(
                    "{} is still alive after {deadline:?}; its last lines:\n{}",
                    self.name,
                    self.log_tail(30)
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Kills the process and those it started with SIGKILL; returns when it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::Kill);
        if self.ended.is_none() {
            self.ended = self.child.wait().ok();
        }
        let _ = std::fs::remove_file(&self.record);
    }

    /// The last `lines` lines printed under the process's name.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        last_lines(&folder::read(&self.log), lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last `count` lines of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
