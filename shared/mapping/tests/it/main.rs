//! Records and the events that they become.

// `cfg(test)` always holds here; it tells clippy that helpers are tests too, where unwrap is welcome.
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod mapping;
