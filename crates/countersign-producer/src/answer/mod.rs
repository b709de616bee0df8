//! Answering the callback service: find a message again and publish it again.

mod decision;
mod look_up;
mod question;
mod repeats;
mod republish;
pub(crate) mod service;
