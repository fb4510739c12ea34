//! The Lambda `ingest`, behind a function URL.

use std::process::ExitCode;

use azul_vt::lambda;
use ingest::OnLambda;

#[tokio::main]
async fn main() -> ExitCode {
    lambda::serve(OnLambda::from_settings).await
}
