//! The common parts of every Countersign process: settings, logs, signals, health.
//!
//! A program's `main` is one call of [`run`]. Nothing below it reads the environment or a signal.

mod setting;

mod settings;

mod settings_table;

mod program;

mod logs;

mod process;

mod health;

pub use process::Process;
pub use program::{Program, run};
pub use setting::{
    AMQP_URL, DATABASE_URL, DRAIN, LOG, LOG_FORMAT, Setting, TOKEN, TOKEN_FILE, listen,
};
pub use settings::Settings;
pub use settings_table::settings_table;
