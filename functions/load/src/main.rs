//! The Lambda `load`: a schedule's event, `{}` or `null` catches up; others ask for a range of minutes, or bring news of
//! objects or its queue's messages.

use std::process::ExitCode;

use azul_vt::lambda;
use load::Load;

#[tokio::main]
async fn main() -> ExitCode {
    lambda::serve(Load::from_settings).await
}
