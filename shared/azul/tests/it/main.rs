//! Checks events in Avro and JSON against other writers and readers.

// `cfg(test)` always holds here; it tells clippy that helpers are tests too, where unwrap is welcome.
#[cfg(test)]
mod avro;
#[cfg(test)]
mod json;
