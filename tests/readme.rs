//! Nothing but the README, so that its examples are compiled with the documentation tests.

#![doc = include_str!("../README.md")]
