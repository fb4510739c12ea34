//! An HTTP client for AWS's SDK that sends each call of DynamoDB twice, as it does itself where an answer
//! is lost on the way.

use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
        SharedHttpConnector,
    },
    orchestrator::HttpRequest,
    runtime_components::RuntimeComponents,
};

/// The first answer is lost, the second one is given.
#[derive(Debug)]
pub(crate) struct Twice(SharedHttpClient);

impl Twice {
    pub(crate) fn new() -> Self {
        Self(Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build_https())
    }
}

impl HttpClient for Twice {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let once = self.0.http_connector(settings, components);
        SharedHttpConnector::new(Connector(once))
    }
}

#[derive(Debug)]
struct Connector(SharedHttpConnector);

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let once = self.0.clone();
        HttpConnectorFuture::new(async move {
            let target = request.headers().get("x-amz-target").unwrap_or_default();
            if target.starts_with("DynamoDB_") {
                let copy = request.try_clone().expect("a body in memory");
                drop(once.call(copy).await?);
            }
            once.call(request).await
        })
    }
}
