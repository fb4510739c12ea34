//! What the Lambdas share: requests of function URLs, who sent them, and when to stop.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use lambda_http::{
    Body, RequestExt as _,
    request::{LambdaRequest, RequestContext},
};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{pipeline::Limits, webhook::LetIn};

/// The time of an invocation that does not say how long it may take.
const UNSTATED: Duration = Duration::from_mins(1);

/// Limits that end `margin` before an invocation's deadline. `cargo lambda watch` states one long ago: the
/// invocation has a minute then.
pub fn limits_before(deadline: SystemTime, margin: Duration) -> Limits {
    let left = deadline.duration_since(SystemTime::now()).unwrap_or(UNSTATED);
    Limits::until(Instant::now() + left.saturating_sub(margin))
}

/// Where this process runs as a Lambda, so that an operator finds its log: function and log stream. `None`: it
/// is no Lambda. Lambda itself sets the variables that it reads.
pub fn instance() -> Option<String> {
    instance_in(&|name| std::env::var(name).ok())
}

fn instance_in(variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let function = variable("AWS_LAMBDA_FUNCTION_NAME")?;
    let stream = variable("AWS_LAMBDA_LOG_STREAM_NAME").unwrap_or_default();
    Some(format!("Lambda {function}, log stream {stream}"))
}

/// Marks a request with [`LetIn`] where IAM knows its caller: the function URL (or the HTTP API) has IAM
/// authentication. AWS writes the identity; no caller can.
pub fn let_in_by_iam(request: &mut lambda_http::Request) {
    let known = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => {
            context.authorizer.as_ref().is_some_and(|authorizer| authorizer.iam.is_some())
        }
        _ => false,
    };
    if known {
        request.extensions_mut().insert(LetIn);
    }
}

/// The request of a function URL; `None` where the event is another one. A caller whom IAM let in is
/// marked with [`LetIn`].
///
/// # Errors
/// It looks like a request and is none.
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

/// The answer as a function URL takes it.
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
