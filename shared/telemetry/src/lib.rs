//! The log and the metrics of all functions.

pub mod log;
pub mod metrics;
