//! Helpers that the tests of several crates share.

#![expect(
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "only tests use this crate, and a panic fails the test"
)]

pub mod corpus;
pub mod samples;
