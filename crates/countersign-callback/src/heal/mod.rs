//! From the ledger to the upstreams. Any number of replicas heal at once; a replica works in rounds:
//!
//! 1. `round` leaves out the upstreams that are paused, and asks the ledger whether a row is due.
//! 2. It reads what the ledger knows beyond rows, and only then locks the due rows of the others and reads
//!    their confirms: a fact newer than the confirms would make a confirmed message look missing.
//! 3. `rules::verdict` judges each row: settled, deferred, parked, or to be asked for.
//! 4. Of the rows to be asked for, `rules::budget` lets through what each upstream may be asked for.
//! 5. The round writes all of it in one transaction, with a lease and an attempt for each row asked for.
//! 6. `calls` asks the upstreams to send again, each call through the gate of its upstream.
//! 7. `answers` writes what the upstreams answered, many answers in one transaction.
//!
//! Beside the rounds, `recent_checks` counts what becomes of checks, and `jobs` makes rows due that
//! operators want sent again.

pub(crate) mod round;

pub(crate) mod calls;

pub(crate) mod answers;

pub(crate) mod upstreams;

pub(crate) mod address;

pub(crate) mod recent_checks;

pub(crate) mod jobs;
