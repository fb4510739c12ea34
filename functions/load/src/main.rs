//! The Lambda `load`: any JSON is a trigger.

use std::process::ExitCode;

use azul_vt::lambda;
use load::Load;

#[tokio::main]
async fn main() -> ExitCode {
    lambda::serve(Load::from_settings).await
}
