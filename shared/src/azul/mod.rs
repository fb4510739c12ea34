//! The dispatcher's HTTP API. The events and their encodings are the crate `azul`'s.

pub use ::azul::{avro, event, incoming, limits};

pub mod answer;
pub mod dispatcher;
mod event_list;
pub mod poll;
pub mod streams;
