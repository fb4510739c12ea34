//! The built `vt`, run as its users run it.

#[cfg(test)]
mod commands;
#[cfg(test)]
mod kills;
