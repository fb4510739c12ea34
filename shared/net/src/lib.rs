//! The parts that every client of a peer needs: the HTTP client, the waits between attempts, the outages and clocks of
//! peers, secrets, the local clock, and the limits of a run.

pub mod clock;
pub mod http_client;
pub mod limits;
pub mod peers;
pub mod secrets;
