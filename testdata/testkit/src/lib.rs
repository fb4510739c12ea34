//! Helpers that the tests of several crates share.

#![expect(clippy::panic, clippy::print_stderr, reason = "only tests use this crate")]

pub mod corpus;
pub mod samples;
