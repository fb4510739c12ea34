//! VirusTotal's API, version 3, as this project uses it.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

pub mod allowed_hosts;
pub mod client;
pub mod content;
pub mod error;
pub mod feed;
pub mod files;
pub mod hunting;
pub mod user;

pub use allowed_hosts::ContentHosts;
pub use client::{VirusTotal, VirusTotalOptions};
pub use content::{BehaviourReport, BehaviourReports, Content};
pub use error::{Answer, VirusTotalError};
pub use feed::{Fetched, Probe};
pub use files::check_report;
pub use hunting::{Page, Ruleset, Rulesets};
pub use user::{ApiQuota, CurrentUser, Privilege};
