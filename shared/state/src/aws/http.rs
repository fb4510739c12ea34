//! The HTTP client for AWS's SDK: the project's own client, with its proxy and its certificate authorities. The SDK's
//! client would load the certificate authorities once more, which takes a third of a function's start.

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
use reqwest::header::{DATE, HeaderMap, HeaderValue};
use tokio::time::{error::Elapsed, timeout};

use base::errors::chain;
use net::{
    http_client::{self, HttpOptions, HttpSetupError},
    peers::{Peer, Peers},
};

/// Returns a client for the SDK. It ignores a proxy for plain http, because AWS is called by https and an emulator runs
/// nearby.
///
/// # Errors
/// As [`http_client::builder`].
pub fn http_client(http: &HttpOptions, peers: &Peers) -> Result<SharedHttpClient, HttpSetupError> {
    let client = http_client::build(&HttpOptions { http_proxy: None, ..http.clone() })?;
    Ok(Client { client, peers: peers.clone() }.into_shared())
}

#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    peers: Peers,
}

impl HttpClient for Client {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        // Only requests for the credentials of an EC2 instance have a limit, a short one, because without that service
        // there is no answer. The limit includes the time to connect, which reqwest cannot limit for each call.
        let limit = settings
            .read_timeout()
            .map(|read| read + settings.connect_timeout().unwrap_or_default());
        Connector { client: self.client.clone(), limit, peers: self.peers.clone() }.into_shared()
    }
}

#[derive(Debug)]
struct Connector {
    client: reqwest::Client,
    /// Longest time until the head of an answer. Only requests for credentials have one.
    limit: Option<Duration>,
    peers: Peers,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (client, limit, peers) = (self.client.clone(), self.limit, self.peers.clone());
        HttpConnectorFuture::new(async move {
            let sending = send(client, request);
            if let Some(limit) = limit {
                let late = |late: Elapsed| Err(ConnectorError::timeout(late.into()));
                return timeout(limit, sending).await.unwrap_or_else(late);
            }
            let sent = sending.await;
            tell(&peers, &sent);
            sent
        })
    }
}

/// Reports to `peers` whether AWS answered, and the time of its clock.
fn tell(peers: &Peers, sent: &Result<HttpResponse, ConnectorError>) {
    let response = match sent {
        Ok(response) => response,
        Err(error) => return peers.failed(Peer::State, &chain(error)),
    };
    let date = response.headers().get(DATE.as_str()).and_then(|d| HeaderValue::from_str(d).ok());
    let headers: HeaderMap = date.map(|date| (DATE, date)).into_iter().collect();
    if response.status().is_server_error() {
        peers.dated(Peer::State, &headers);
        peers.failed(Peer::State, &format!("it answers {}", response.status().as_u16()));
    } else {
        peers.answered(Peer::State, &headers);
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
        // The SDK decides by these kinds of error what to retry.
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
