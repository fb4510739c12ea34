//! Events in Avro and JSON, beside other writers and readers of them.

// `cfg(test)` always holds here; it tells clippy that helpers are tests too, where unwrap is welcome.
#[cfg(test)]
mod avro;
#[cfg(test)]
mod json;
