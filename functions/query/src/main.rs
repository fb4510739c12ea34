//! The Lambda `query`. It takes webhooks by its function URL and works the messages of its queue. A schedule's event,
//! `{}` or `null` makes it poll the dispatcher and work waiting items until its time is over.

use std::process::ExitCode;

use azul_vt::{lambda, tasks::TaskLambda};
use query::Query;

#[tokio::main]
async fn main() -> ExitCode {
    lambda::serve(async |settings, store, clock| {
        TaskLambda::new(Query::from_settings(settings, store, clock)?)
    })
    .await
}
