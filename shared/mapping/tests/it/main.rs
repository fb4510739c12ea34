//! Checks the events that records become.

// `cfg(test)` always holds here; it tells clippy that helpers are tests too, where unwrap is welcome.
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod mapping;
