//! Answering the callback service: find a message again and publish it again.

pub(crate) mod service;

pub(crate) mod decision;

pub(crate) mod look_up;

pub(crate) mod repeats;
