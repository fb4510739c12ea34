//! The Azul side: event models, their encodings, and the dispatcher's HTTP API.

pub mod event;
