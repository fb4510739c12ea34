//! What the Lambdas share: requests of function URLs, who sent them, and when to stop.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use lambda_http::{
    Body, RequestExt as _,
    request::{LambdaRequest, RequestContext},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{pipeline::Limits, webhook::LetIn};

/// Limits that end `margin` before an invocation's deadline.
pub fn limits_before(deadline: SystemTime, margin: Duration) -> Limits {
    let left = deadline.duration_since(SystemTime::now()).unwrap_or_default();
    Limits::until(Instant::now() + left.saturating_sub(margin))
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
pub fn webhook(event: Value) -> Result<Option<Request<Full<Bytes>>>, serde_json::Error> {
    if event.pointer("/requestContext/http").is_none() {
        return Ok(None);
    }
    let request: LambdaRequest = serde_json::from_value(event)?;
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
