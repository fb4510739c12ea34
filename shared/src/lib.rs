//! The library that all functions of azul-vt use. It has the protocols of VirusTotal and Azul, the mapping of records
//! to events, the selection of samples, and the state.

pub use base::{errors, minute, peer_text};
pub use bundle;
pub use json;
pub use mapping;
pub use rules as selection;

pub mod azul;
pub mod http_client;
pub mod lambda;
pub mod metrics;
pub mod peers;
pub mod pipeline;
pub mod secrets;
pub mod settings;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod virustotal;
pub mod webhook;
pub mod worker;
