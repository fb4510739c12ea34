//! Azul's events: their models, their encodings in Avro and JSON, and the limits of Azul's stores. Pure: no network, no
//! clock.

pub mod avro;
pub mod event;
pub mod incoming;
pub mod limits;
