//! An HTTP client for AWS's SDK that makes trouble for calls of DynamoDB.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::{
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
        SharedHttpConnector,
    },
    orchestrator::{HttpRequest, HttpResponse},
    runtime_components::RuntimeComponents,
};
use azul_vt::store::aws;

/// The kind of trouble.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// Each call arrives twice and its first answer is lost, as when the SDK sends it again.
    Twice,
    /// Two of three writes are refused because of a conflict with another write to the same item. The emulator works
    /// them one after the other, so it never refuses by itself.
    Meetings,
}

/// An HTTP client that makes trouble.
#[derive(Debug)]
pub(crate) struct Wire {
    client: SharedHttpClient,
    trouble: Trouble,
    // Here, for the SDK asks for a connector with each call.
    calls: Arc<AtomicU32>,
    refused: Arc<AtomicU32>,
}

impl Wire {
    pub(crate) fn new(trouble: Trouble) -> Self {
        let client = aws::http_client(&<_>::default(), &<_>::default()).unwrap();
        Self { client, trouble, calls: Arc::default(), refused: Arc::default() }
    }

    /// Returns the running count of calls that were refused.
    pub(crate) fn refused(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.refused)
    }
}

impl HttpClient for Wire {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector {
            once: self.client.http_connector(settings, components),
            trouble: self.trouble,
            calls: Arc::clone(&self.calls),
            refused: Arc::clone(&self.refused),
        })
    }
}

#[derive(Debug)]
struct Connector {
    once: SharedHttpConnector,
    trouble: Trouble,
    calls: Arc<AtomicU32>,
    refused: Arc<AtomicU32>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let once = self.once.clone();
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let Some(operation) = target.strip_prefix("DynamoDB_20120810.") else {
            return once.call(request);
        };
        match self.trouble {
            Trouble::Twice => HttpConnectorFuture::new(async move {
                let copy = request.try_clone().expect("a body in memory");
                drop(once.call(copy).await?);
                once.call(request).await
            }),
            Trouble::Meetings => {
                let error = match operation {
                    "TransactWriteItems" => {
                        r#"{"__type":"com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
                            "CancellationReasons":[{"Code":"None"},{"Code":"TransactionConflict"}],
                            "Message":"Transaction cancelled"}"#
                    }
                    "UpdateItem" => {
                        r#"{"__type":"com.amazonaws.dynamodb.v20120810#TransactionConflictException",
                            "message":"Transaction is ongoing for the item"}"#
                    }
                    _ => return once.call(request),
                };
                if self.calls.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
                    return once.call(request);
                }
                self.refused.fetch_add(1, Ordering::Relaxed);
                let status = 400.try_into().expect("a status");
                HttpConnectorFuture::ready(Ok(HttpResponse::new(status, SdkBody::from(error))))
            }
        }
    }
}
