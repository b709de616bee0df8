//! End-to-end tests: the real programs, as processes, on a real RabbitMQ and Postgres.
//!
//! What counts as a failure, and what does not, stands at the top of [`world`].

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod world;

mod happy_path;

mod by_hand;
mod clocks;

mod mistakes;

mod operators;

mod jobs;

mod losses;

mod delays;

mod transactions;

mod consumers;

mod two_consumers;
mod upgrades;

mod crashes;

mod replicas;

mod stopping;

mod outages;

mod storms;

mod sweeping;

mod strangers;

mod pages;

mod chaos;
