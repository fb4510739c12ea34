//! From a bundle's records to acknowledged events.

pub mod publish;
