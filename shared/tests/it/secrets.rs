//! Secrets in entries of Secrets Manager, on an emulator.

use std::{sync::Arc, time::Duration};

use aws_sdk_secretsmanager::Client;
use azul_vt::{secrets::Secret, store::aws::SecretsManager};
use secrecy::ExposeSecret;
use sim::{Chaos, Shared};

use crate::store_aws::config;

/// An entry that only one test uses.
struct Entry {
    aws: Shared,
    client: Client,
    name: String,
}

impl Entry {
    async fn new(value: &str) -> Option<Self> {
        let aws = sim::Aws::shared().unwrap()?;
        let client = Client::new(&config(&aws.endpoint()).await);
        let name = aws.name("azul-vt/secret");
        client.create_secret().name(&name).secret_string(value).send().await.unwrap();
        Some(Self { aws, client, name })
    }

    async fn rotate(&self, value: &str) {
        let put = self.client.put_secret_value().secret_id(&self.name).secret_string(value);
        put.send().await.unwrap();
    }

    fn secret(&self, ttl: Duration) -> Secret {
        secret_in(&self.client, &self.name, ttl)
    }
}

fn secret_in(client: &Client, name: &str, ttl: Duration) -> Secret {
    let entries = Arc::new(SecretsManager::with_client(client.clone()));
    Secret::entry("INGEST_TOKENS", name, entries, ttl)
}

async fn value(secret: &Secret) -> String {
    secret.get().await.unwrap().expose_secret().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_is_known_when_the_last_reading_is_old() {
    let Some(entry) = Entry::new("first\n").await else { return };
    let (lasting, brief) = (entry.secret(Duration::MAX / 4), entry.secret(Duration::ZERO));
    assert_eq!((value(&lasting).await, value(&brief).await), ("first".into(), "first".into()));
    entry.rotate("second, third,").await;
    assert_eq!(value(&lasting).await, "first");
    assert_eq!(value(&brief).await, "second, third,");
    let parts = brief.list().await.unwrap();
    let parts: Vec<_> = parts.iter().map(ExposeSecret::expose_secret).collect();
    assert_eq!(parts, ["second", "third"]);
    assert!(!format!("{brief:?}").contains("second"), "{brief:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_was_read_outlives_an_outage() {
    let Some(entry) = Entry::new("first").await else { return };
    let chaos = Chaos::start(&entry.aws.endpoint()).await.unwrap();
    let mut config = config(&chaos.url()).await.into_builder();
    config.set_retry_config(Some(aws_config::retry::RetryConfig::disabled()));
    let client = Client::new(&config.build());
    let secret = |name: &str| secret_in(&client, name, Duration::ZERO);
    let read = secret(&entry.name);
    assert_eq!(value(&read).await, "first");
    entry.rotate("second").await;
    drop(chaos);
    let error = secret(&entry.name).get().await.unwrap_err();
    let text = azul_vt::errors::chain(&error);
    assert!(text.contains("INGEST_TOKENS_SECRET") && text.contains(&entry.name), "{text}");
    assert!(!text.contains("first"), "{text}");
    assert_eq!(value(&read).await, "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_not_there_or_empty_is_named() {
    let Some(entry) = Entry::new(" ").await else { return };
    let empty = entry.secret(Duration::ZERO).get().await.unwrap_err();
    assert!(empty.to_string().contains(&entry.name), "{empty}");
    let secret = secret_in(&entry.client, "not/there", Duration::ZERO);
    let absent = azul_vt::errors::chain(&secret.get().await.unwrap_err());
    assert!(absent.contains("INGEST_TOKENS_SECRET") && absent.contains("not/there"), "{absent}");
}
