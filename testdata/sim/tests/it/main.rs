//! The stand-ins, as their users see them.

mod feed;
mod process;
mod proxy;
mod virustotal;
