//! The smallest things that all crates share: minutes of the feed, errors as one line, text from peers without secrets,
//! the clock, and the limits of a run.

pub mod clock;
pub mod errors;
pub mod limits;
pub mod minute;
pub mod peer_text;
