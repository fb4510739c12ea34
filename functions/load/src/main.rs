//! The Lambda `load`. A schedule's event, `{}` or `null` makes it catch up with the feed. Other events name a range of
//! minutes, notify of new objects in S3, or carry the messages of its queue.

use std::process::ExitCode;

use azul_vt::lambda;
use load::Load;

#[tokio::main]
async fn main() -> ExitCode {
    lambda::serve(Load::from_settings).await
}
