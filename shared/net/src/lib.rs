//! What every client of a peer needs: the HTTP client, the waits between attempts, how the peers are and what their
//! clocks say, and secrets.

pub mod http_client;
pub mod peers;
pub mod secrets;
