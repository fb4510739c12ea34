//! The HTTP client of AWS's SDK: the one that everything else here speaks through, with its proxy and its
//! certificate authorities. The SDK's own would read these once more, which is a third of a function's start.

use std::{error::Error, time::Duration};

use aws_smithy_runtime_api::{
    client::{
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
            SharedHttpClient, SharedHttpConnector,
        },
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
        runtime_components::RuntimeComponents,
    },
    shared::IntoShared as _,
};
use aws_smithy_types::body::SdkBody;
use tokio::time::timeout;

use crate::{
    http_client::{self, HttpSetupError},
    settings::Settings,
};

/// A client for the SDK. A proxy for plain http is not used: AWS is asked by https, and an emulator is near.
///
/// # Errors
/// As [`http_client::builder`].
pub fn http_client(settings: &Settings) -> Result<SharedHttpClient, HttpSetupError> {
    let settings = Settings { http_proxy: None, ..settings.clone() };
    Ok(Client(http_client::build(&settings)?).into_shared())
}

#[derive(Debug)]
struct Client(reqwest::Client);

impl HttpClient for Client {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        // Only the credentials of an EC2 instance are asked for with a limit, a short one: where there is no such service, nobody
        // answers. It comes on top of the time to connect, for which reqwest has no limit a call.
        let limit = settings
            .read_timeout()
            .map(|read| read + settings.connect_timeout().unwrap_or_default());
        Connector { client: self.0.clone(), limit }.into_shared()
    }
}

#[derive(Debug)]
struct Connector {
    client: reqwest::Client,
    /// How long the head of an answer may take.
    limit: Option<Duration>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (client, limit) = (self.client.clone(), self.limit);
        HttpConnectorFuture::new(async move {
            let sending = send(client, request);
            match limit {
                Some(limit) => timeout(limit, sending)
                    .await
                    .unwrap_or_else(|late| Err(ConnectorError::timeout(late.into()))),
                None => sending.await,
            }
        })
    }
}

async fn send(
    client: reqwest::Client,
    request: HttpRequest,
) -> Result<HttpResponse, ConnectorError> {
    let unfit = |error: Box<dyn Error + Send + Sync>| ConnectorError::user(error);
    let request = request.try_into_http1x().map_err(|e| unfit(e.into()))?;
    let request =
        request.map(reqwest::Body::wrap).try_into().map_err(|e: reqwest::Error| unfit(e.into()))?;
    let response = client.execute(request).await.map_err(|error| {
        // What the SDK tries again is told apart by these.
        if error.is_builder() {
            ConnectorError::user(error.into())
        } else if error.is_timeout() {
            ConnectorError::timeout(error.into())
        } else {
            ConnectorError::io(error.into())
        }
    })?;
    let response = http::Response::from(response).map(SdkBody::from_body_1_x);
    HttpResponse::try_from(response).map_err(|e| ConnectorError::other(e.into(), None))
}
