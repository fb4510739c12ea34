//! The library that all functions of azul-vt use. It has the protocols of VirusTotal and Azul, the mapping of records
//! to events, the selection of samples, and the state.

pub use ::telemetry::log as telemetry;
pub use base::{errors, minute, peer_text};
pub use bundle;
pub use json;
pub use mapping;
pub use net::{http_client, peers, secrets};
pub use rules as selection;
pub use state as store;

pub mod azul;
pub mod lambda;
pub mod metrics;
pub mod pipeline;
pub mod settings;
pub mod tasks;
pub mod virustotal;
pub mod webhook;
pub mod worker;
