//! The smallest things that all crates share: minutes of the feed, errors as one line, and text from peers without
//! secrets. Pure: no network, no clock.

pub mod errors;
pub mod minute;
pub mod peer_text;
