//! The Azul side: event models, their encodings, and the dispatcher's HTTP API.

pub mod answer;
pub mod avro;
pub mod dispatcher;
pub mod event;
mod event_list;
pub mod incoming;
pub mod limits;
pub mod poll;
pub mod streams;
