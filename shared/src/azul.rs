//! Azul's events, their encodings, and the dispatcher's HTTP API.

pub use ::azul::{answer, avro, dispatcher, event, incoming, limits, poll, streams};
