//! The Lambda `hunt`: a schedule's event, `{}` or `null` reads what is new, `{"retrohunt":"<job>"}` the matches of a job.

use std::process::ExitCode;

use azul_vt::lambda;
use hunt::Hunt;

#[tokio::main]
async fn main() -> ExitCode {
    lambda::serve(async |settings, store, clock| Hunt::from_settings(settings, store, clock)).await
}
