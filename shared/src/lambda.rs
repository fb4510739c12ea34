//! Runs a function as a Lambda. This module starts it, reads requests of function URLs and their callers, and derives
//! the limits of a run from the invocation's deadline.

use std::{
    error::Error as StdError,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use lambda_http::{
    Body, RequestExt as _,
    request::{LambdaRequest, RequestContext},
};
use lambda_runtime::{Diagnostic, LambdaEvent, Runtime, service_fn};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::{
    errors::chain,
    metrics::emf,
    pipeline::RunLimits,
    settings::Settings,
    store::{self, Clock, Store, StoreError, SystemClock},
    telemetry::{self, Format},
    webhook::PreAuthenticated,
};

/// Time of an invocation that states no valid deadline.
const UNSTATED: Duration = Duration::from_mins(1);
/// Shortest time between two reads of the state for the metrics, so that not every webhook pays for one.
const MEASURED_EVERY: Duration = Duration::from_secs(30);
/// Longest time to read the state for the metrics. The caller of the function waits meanwhile.
const MEASURING: Duration = Duration::from_secs(2);

/// Error of a failed invocation, of any type.
pub type Error = Box<dyn StdError + Send + Sync>;

/// An event of a kind that the function does not take. It is an error and not a tick, because its request would be
/// lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the event is none that this function takes, which are {takes}; a schedule's event, {{}} and null only start it"
)]
pub struct UnknownEvent {
    /// The kinds of events that the function takes, apart from a tick.
    pub takes: &'static str,
}

/// Whether an event is a tick, which only starts a run: a schedule's event, `{}`, `[]` or `null`.
pub fn is_tick(event: &Value) -> bool {
    match event {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => {
            let source = members.get("source").and_then(Value::as_str);
            members.is_empty() || matches!(source, Some("aws.events" | "aws.scheduler"))
        }
        _ => false,
    }
}

/// A function that [`serve`] runs as a Lambda.
#[async_trait]
pub trait Function: Send + Sync + 'static {
    /// The function's name in the log.
    const NAME: &'static str;
    /// Time before an invocation's deadline at which the function stops its work, so that it can end in order.
    const DEADLINE_MARGIN: Duration;

    /// Does the work that an event asks for until `limits` are reached, and returns the answer.
    ///
    /// # Errors
    /// Fails if the invocation failed. A later invocation does the work that is left.
    async fn handle(&self, event: &Value, limits: &RunLimits) -> Result<Value, Error>;

    /// Sets the gauges that are read from the state.
    ///
    /// # Errors
    /// Fails if the state cannot be read.
    async fn measure(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Builds a function from settings, state and clock with `build`, and serves it as a Lambda until the process ends. If
/// the function cannot start, the log has the reason.
pub async fn serve<F, E>(
    build: impl AsyncFnOnce(Settings, Store, Arc<dyn Clock>) -> Result<F, E>,
) -> ExitCode
where
    F: Function,
    E: Into<Error>,
{
    let settings = Settings::from_env();
    let log = settings.as_ref().map_or("info", |settings| &settings.log).to_owned();
    let started = async {
        if let Err(error) = telemetry::init(&log, Format::Json) {
            // Without this log the failure would be invisible.
            telemetry::init("info", Format::Json)?;
            return Err(error.into());
        }
        emf::init();
        instance().into_iter().for_each(store::set_owner);
        let settings = settings?;
        let store = store::open(&settings.state_options()).await?;
        build(settings, store, Arc::new(SystemClock)).await.map_err(Into::into)
    };
    // Boxed, because the future of the start is large and is dropped afterwards.
    let function: F = match Box::pin(started).await {
        Ok(function) => function,
        Err(error) => {
            tracing::error!(error = chain(&*error), "{} cannot start", F::NAME);
            return ExitCode::FAILURE;
        }
    };
    let served = Served { function, measured: Mutex::default() };
    // The runtime's own spans are not needed, because this span has level `error` and so passes every filter.
    let runtime = Runtime::new(service_fn(async |event: LambdaEvent<Value>| {
        let request_id = event.context.request_id.clone();
        let span = tracing::error_span!("invocation", function = F::NAME, request_id);
        served.invoke(event).instrument(span).await
    }));
    match runtime.run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = chain(&*error), "{} ended", F::NAME);
            ExitCode::FAILURE
        }
    }
}

/// A function that is being served.
struct Served<F> {
    function: F,
    /// Time at which the state was last read for the metrics.
    measured: Mutex<Option<Instant>>,
}

impl<F: Function> Served<F> {
    async fn invoke(&self, event: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
        // The guard is dropped at the end, also if the function panics.
        let _flushed = Flush;
        let begun = Instant::now();
        let limits = limits_before(event.context.deadline(), F::DEADLINE_MARGIN);
        let outcome = self.function.handle(&event.payload, &limits).await;
        self.measure().await;
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(took_ms, is_ok = outcome.is_ok(), "invocation ended");
        outcome.map_err(|error| {
            let error_message = chain(&*error);
            tracing::error!(error = error_message, "the invocation failed");
            Diagnostic { error_type: format!("{}::Failed", F::NAME), error_message }
        })
    }

    async fn measure(&self) {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner).take();
        if measured.is_none_or(|at| at.elapsed() >= MEASURED_EVERY) {
            match tokio::time::timeout(MEASURING, self.function.measure()).await {
                Ok(Ok(())) => measured = Some(Instant::now()),
                Ok(Err(error)) => {
                    tracing::warn!(error = chain(&error), "the metrics lack the state");
                }
                Err(_) => tracing::warn!("the metrics lack the state: it is too slow"),
            }
        }
        *self.measured.lock().unwrap_or_else(PoisonError::into_inner) = measured;
    }
}

/// A guard that writes the metrics when it is dropped.
struct Flush;

impl Drop for Flush {
    fn drop(&mut self) {
        emf::flush();
    }
}

/// Returns limits that end `margin` before an invocation's deadline. `cargo lambda watch` states a deadline in the
/// past; the invocation then has [`UNSTATED`].
fn limits_before(deadline: SystemTime, margin: Duration) -> RunLimits {
    let left = deadline.duration_since(SystemTime::now()).unwrap_or(UNSTATED);
    RunLimits::until(Instant::now() + left.saturating_sub(margin))
}

/// Returns the function and the log stream of this Lambda, so that an operator finds its log; `None` if this process
/// does not run as a Lambda. Lambda itself sets the variables that are read.
pub fn instance() -> Option<String> {
    instance_in(&|name| std::env::var(name).ok())
}

fn instance_in(variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let function = variable("AWS_LAMBDA_FUNCTION_NAME")?;
    let stream = variable("AWS_LAMBDA_LOG_STREAM_NAME").unwrap_or_default();
    Some(format!("Lambda {function}, log stream {stream}"))
}

/// Marks a request with [`PreAuthenticated`] if IAM authenticated its caller, which a function URL or an HTTP API can
/// require. AWS writes the identity into the request, so no caller can forge it.
fn let_in_by_iam(request: &mut lambda_http::Request) {
    let known = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => {
            context.authorizer.as_ref().is_some_and(|authorizer| authorizer.iam.is_some())
        }
        _ => false,
    };
    if known {
        request.extensions_mut().insert(PreAuthenticated);
    }
}

/// Reads the request of a function URL; `None` if the event is of another kind. A request whose caller IAM
/// authenticated is marked with [`PreAuthenticated`].
///
/// # Errors
/// Fails if the event has the form of a request but cannot be read as one.
pub fn webhook(event: &Value) -> Result<Option<Request<Full<Bytes>>>, serde_json::Error> {
    if event.pointer("/requestContext/http").is_none() {
        return Ok(None);
    }
    let request = LambdaRequest::deserialize(event)?;
    let mut request = lambda_http::Request::from(request);
    let_in_by_iam(&mut request);
    Ok(Some(request.map(|body| {
        Full::from(match body {
            Body::Text(text) => Bytes::from(text),
            Body::Binary(bytes) => Bytes::from(bytes),
            _ => Bytes::new(),
        })
    })))
}

/// Returns a response in the form that a function URL expects.
pub fn answer(response: &Response<Bytes>) -> Value {
    let headers: serde_json::Map<String, Value> = response
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.to_string(), json!(value.to_str().ok()?))))
        .collect();
    json!({
        "statusCode": response.status().as_u16(),
        "headers": headers,
        "body": String::from_utf8_lossy(response.body()),
        "isBase64Encoded": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_schedules_event_or_an_empty_one_is_a_tick() {
        let schedule = json!({"source": "aws.scheduler", "detail-type": "Scheduled Event"});
        for tick in [json!(null), json!({}), json!([]), schedule] {
            assert!(is_tick(&tick), "{tick}");
        }
        for other in [
            json!({"Records": []}),
            json!({"source": "aws.s3", "detail": {}}),
            json!({"Event": "s3:TestEvent"}),
            json!([{}]),
            json!("tick"),
            json!(7),
        ] {
            assert!(!is_tick(&other), "{other}");
        }
    }

    #[test]
    fn a_lambda_is_named_by_its_function_and_its_log_stream() {
        let variables = |name: &str| match name {
            "AWS_LAMBDA_FUNCTION_NAME" => Some("load".to_owned()),
            "AWS_LAMBDA_LOG_STREAM_NAME" => Some("2026/11/24/[$LATEST]0123".to_owned()),
            _ => None,
        };
        let name = instance_in(&variables).unwrap();
        assert_eq!(name, "Lambda load, log stream 2026/11/24/[$LATEST]0123");
        assert_eq!(instance_in(&|_| None), None);
    }

    #[test]
    fn an_invocation_has_the_time_that_is_stated_and_a_minute_where_it_is_long_over() {
        let hour = Duration::from_hours(1);
        let until = |deadline| {
            let limits = limits_before(deadline, Duration::from_secs(10));
            limits.deadline.unwrap().duration_since(Instant::now())
        };
        let stated = until(SystemTime::now() + hour);
        assert!(stated > hour / 2 && stated < hour, "{stated:?}");
        let unstated = until(SystemTime::UNIX_EPOCH + hour);
        assert!(unstated > UNSTATED / 2 && unstated < UNSTATED, "{unstated:?}");
    }
}
