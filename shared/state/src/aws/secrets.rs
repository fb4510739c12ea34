//! Secrets in AWS Secrets Manager.

use std::error::Error;

use async_trait::async_trait;
use aws_sdk_secretsmanager::Client;
use secrecy::SecretString;
use tokio::sync::OnceCell;

use net::{http_client::HttpOptions, peers::Peers, secrets::SecretEntries};

/// The entries of AWS Secrets Manager. Its client is made when the first entry is read.
pub struct SecretsManager {
    client: OnceCell<Client>,
    http: HttpOptions,
    peers: Peers,
}

impl SecretsManager {
    /// Returns the entries that a client with these proxies and certificate authorities reads.
    pub fn new(http: HttpOptions, peers: Peers) -> Self {
        Self { client: OnceCell::new(), http, peers }
    }

    /// Returns the entries that `client` reads.
    pub fn with_client(client: Client) -> Self {
        let client = OnceCell::new_with(Some(client));
        Self { client, http: HttpOptions::default(), peers: Peers::default() }
    }
}

#[async_trait]
impl SecretEntries for SecretsManager {
    async fn read(
        &self,
        entry: &str,
    ) -> Result<Option<SecretString>, Box<dyn Error + Send + Sync>> {
        let connect = async || {
            super::config(&self.http, &self.peers).await.map(|config| Client::new(&config))
        };
        let client = self.client.get_or_try_init(connect).await?;
        let answer = client.get_secret_value().secret_id(entry).send().await?;
        Ok(answer.secret_string.map(SecretString::from))
    }
}
