//! The Lambda `query`: webhooks by its function URL; what its queue hands over; a schedule's event, `{}` or `null` polls the
//! dispatcher and works what waits, until its time is over.

use std::process::ExitCode;

use azul_vt::{lambda, tasks::Attended};
use query::Query;

#[tokio::main]
async fn main() -> ExitCode {
    lambda::serve(async |settings, store, clock| {
        Attended::new(Query::from_settings(settings, store, clock)?)
    })
    .await
}
