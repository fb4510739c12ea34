//! VirusTotal's API, and how its requests are shared between functions and processes.

pub use ::virustotal::*;

pub mod outage;
pub mod request_budget;
