//! Checks bundles of every kind, sound and broken.

// `cfg(test)` always holds here; it tells clippy that helpers are tests too, where unwrap is welcome.
#[cfg(test)]
mod bundle;
