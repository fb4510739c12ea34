//! A Lambda function that fails on demand: `{"fail":"why"}` fails, `{"panic":"why"}` panics, and any other event is
//! returned as the answer. It is for trying how [`azul_vt::lambda::serve`] handles the outcomes, which is the same for
//! every function.

use std::{process::ExitCode, time::Duration};

use async_trait::async_trait;
use azul_vt::{
    lambda::{self, Function},
    pipeline::RunLimits,
};
use serde_json::Value;

struct Faulty;

#[async_trait]
impl Function for Faulty {
    const NAME: &'static str = "faulty";
    const DEADLINE_MARGIN: Duration = Duration::from_secs(1);

    #[expect(clippy::panic, reason = "that is what it is for")]
    async fn handle(&self, event: &Value, _: &RunLimits) -> Result<Value, lambda::Error> {
        let told = |what| event.get(what).and_then(Value::as_str);
        match (told("fail"), told("panic")) {
            (Some(why), _) => Err(why.into()),
            (None, Some(why)) => panic!("{why}"),
            (None, None) => Ok(event.clone()),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    lambda::serve(async |_, _, _| Ok::<_, lambda::Error>(Faulty)).await
}
