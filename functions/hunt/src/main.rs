//! The Lambda `hunt`. A schedule's event, `{}` or `null` makes it read new notifications; `{"retrohunt":"<job>"}` makes
//! it read the matches of a Retrohunt job.

use std::process::ExitCode;

use azul_vt::lambda;
use hunt::Hunt;

#[tokio::main]
async fn main() -> ExitCode {
    lambda::serve(async |settings, store, clock| Hunt::from_settings(settings, store, clock)).await
}
