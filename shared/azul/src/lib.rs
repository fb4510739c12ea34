//! Azul's events: their models, their encodings in Avro and JSON, and the limits of Azul's stores. Pure: no network, no
//! clock. With the feature `client` also the dispatcher's HTTP API.

#[cfg(feature = "client")]
pub mod answer;
pub mod avro;
#[cfg(feature = "client")]
pub mod dispatcher;
pub mod event;
#[cfg(feature = "client")]
mod event_list;
pub mod incoming;
pub mod limits;
#[cfg(feature = "client")]
pub mod poll;
#[cfg(feature = "client")]
pub mod streams;
