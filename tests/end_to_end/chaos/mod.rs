//! Chaos: whatever can be killed, frozen or cut off is, at random moments, while orders are placed
//! all the while. Each test ends in the audit of [`crate::world`]: every committed order shipped
//! exactly once, or parked with a reason.
//!
//! The blows and their moments are drawn from a seed alone: `CHAOS_SEED` sets it, otherwise it is random, and
//! each test prints it. `CHAOS_SECONDS` (8 unless given) is how long each test does harm, about.
//!
//! A test in which no harm was done, or nothing flowed, fails: each shows that its harm bit, by what
//! only such harm can leave behind.

mod schedule;

mod load;

mod trial;

mod kills;

mod freezes;

mod servers;

mod network;
