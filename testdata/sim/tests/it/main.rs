//! The stand-ins, as their users see them.

// `cfg(test)` tells clippy that helpers in there are tests too.
#[cfg(test)]
mod aws;
#[cfg(test)]
mod content;
#[cfg(test)]
mod feed;
#[cfg(test)]
mod hunting;
#[cfg(test)]
mod process;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod sandbox;
#[cfg(test)]
mod uploads;
#[cfg(test)]
mod virustotal;
