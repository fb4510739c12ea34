//! What the functions of azul-vt share: VirusTotal's and Azul's protocols, the mapping of records to
//! events, the selection of samples, and state.

pub mod azul;
pub mod bundle;
pub mod errors;
pub mod http_client;
pub mod json;
mod json_limits;
pub mod lambda;
pub mod mapping;
pub mod metrics;
pub mod minute;
pub mod peer_text;
pub mod peers;
pub mod pipeline;
pub mod secrets;
pub mod selection;
pub mod settings;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod virustotal;
pub mod webhook;
pub mod worker;
