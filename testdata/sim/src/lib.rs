//! Stand-ins over real HTTP on 127.0.0.1 for what this project talks to, and synthetic feed data.
//!
//! Each stand-in is a struct: `start().await` it, give its `url()` to the code under test, tell it
//! what to do by its controls, ask it afterwards what it saw. Dropping it ends it. None of them
//! shares code with the library under test, so that they check it independently.

mod aws;
mod azul;
mod dispatcher;
mod fault;
pub mod feed;
mod gateway;
pub mod lookup;
mod proxy;
mod python;
mod runtime_api;
mod server;
mod virustotal;

pub use aws::{Aws, Shared, policy};
pub use azul::{Azul, AzulDispatcher};
pub use dispatcher::{Arrived, Dispatcher, Download, Model, Posted, Published};
pub use fault::Fault;
pub use gateway::{Gateway, Pushed};
pub use proxy::{Chaos, Mode, Proxy, Through};
pub use runtime_api::{Outcome, RuntimeApi};
pub use server::Date;
pub use virustotal::{Asked, Behaviour, Hit, Request, TEST_KEY, Unknown, VirusTotal};
