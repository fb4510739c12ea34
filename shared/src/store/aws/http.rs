//! The HTTP client of AWS's SDK, with the proxy and the certificate authorities that the settings name.

use aws_smithy_http_client::{
    Connector,
    proxy::ProxyConfig,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::http::{
    HttpConnectorSettings, SharedHttpClient, SharedHttpConnector, http_client_fn,
};

use crate::{
    http_client::{CONNECT_TIMEOUT, HttpSetupError, ca_bundle},
    settings::Settings,
};

/// `None` where the settings ask for nothing that the SDK's own client does not do. A proxy for plain http
/// is not used: AWS is asked by https, and an emulator is near.
pub(super) fn client(settings: &Settings) -> Result<Option<SharedHttpClient>, HttpSetupError> {
    let authorities = ca_bundle(settings)?;
    if authorities.is_none() && settings.https_proxy.is_none() {
        return Ok(None);
    }
    let mut trusted = TrustStore::default();
    if let Some(authorities) = authorities {
        trusted.add_pem_certificate(authorities.pem);
    }
    let proxy = match &settings.https_proxy {
        // The error is left out: it may show the URL and with it a password.
        Some(url) => ProxyConfig::https(url.as_str())
            .map_err(|_| HttpSetupError::Proxy { name: "HTTPS_PROXY" })?
            .no_proxy(&settings.no_proxy),
        None => ProxyConfig::disabled(),
    };
    let context = TlsContext::builder().with_trust_store(trusted).build()?;
    let timeouts = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).build();
    let connector = Connector::builder()
        .connector_settings(timeouts)
        .proxy_config(proxy)
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context)
        .build();
    let connector = SharedHttpConnector::new(connector);
    Ok(Some(http_client_fn(move |_, _| connector.clone())))
}
