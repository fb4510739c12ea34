//! Runs `ingest` as a Lambda behind a function URL.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use azul_vt::{
    lambda::{self, Function},
    pipeline::{Pipeline, RunLimits},
    settings::Settings,
    store::{Clock, Store},
};
use serde_json::Value;

use crate::{Ingest, NAME};

/// Time before an invocation's deadline that is kept for answering the caller.
const DEADLINE_MARGIN: Duration = Duration::from_secs(3);

/// `ingest` as a Lambda.
pub struct OnLambda(Arc<Ingest>);

impl OnLambda {
    /// Builds the Lambda from the settings, and reads the rules.
    ///
    /// # Errors
    /// Fails if a setting or a rule cannot be used.
    pub async fn from_settings(
        settings: Settings,
        store: Store,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, lambda::Error> {
        let pipeline = Pipeline::from_settings(&settings, store.clone()).await?;
        let ingest = Ingest::new(&settings, store, clock, pipeline)?;
        if !settings.ingest_is_authenticated() {
            tracing::info!(
                "no INGEST_SECRETS, no INGEST_TOKENS: only callers that IAM knows may post"
            );
        }
        Ok(Self(Arc::new(ingest)))
    }
}

#[async_trait]
impl Function for OnLambda {
    const NAME: &'static str = NAME;
    const DEADLINE_MARGIN: Duration = DEADLINE_MARGIN;

    async fn handle(&self, event: &Value, _: &RunLimits) -> Result<Value, lambda::Error> {
        let request = lambda::webhook(event)?
            .ok_or("the event is no request of a function URL, which is all that ingest takes")?;
        Ok(lambda::answer(&self.0.handle(request).await))
    }
}
