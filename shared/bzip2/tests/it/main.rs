//! Checks the decoder against an ordinary one.

// `cfg(test)` always holds here; it tells clippy that helpers are tests too, where unwrap is welcome.
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod ordinary;
