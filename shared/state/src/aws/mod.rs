//! The implementation on AWS: one `DynamoDB` table, S3 for objects, and SQS for waiting work.
//!
//! The table has the keys `pk` and `sk` (texts), the TTL attribute `expires_at` (seconds since 1970), and
//! these items. Times are nanoseconds since 1970, `by` is a random mark of the call that wrote last.
//!
//! | `pk` | `sk` | attributes | kept |
//! |---|---|---|---|
//! | `cursor#<name>` | `-` | `position` | for good |
//! | `lease#<name>` | `-` | `owner`, `since`, `renewed`, `until`, `fence`, `by` | 30 days after the last renewal |
//! | `ledger#<YYYY-MM>` | `<YYYYMMDDhhmm>` | `row` (JSON), `open` (is it unfinished?), `rev` | 36 days after the minute, once finished |
//! | `ledger-open` | `<YYYYMMDDhhmm>` | the same `row`, `state`, `due` (next try): a copy of each unfinished row | while it is unfinished |
//! | `ledger-totals` | `<YYYY-MM-DD>` | of the finished minutes of a day: `loaded`, `buried` and the sums of their counts | 37 days after the last write's minute |
//! | `memory#<kind>#<id>` | `-` | `until`, `by` | until then |
//! | `quota#<YYYY-MM-DD>#<category>` | `#<id>` | `stage` | 35 days after the day |
//! | `budget#<name>` | number of the grant, 20 digits | `granted`, `by` | 32 days, or as long as the longest window |
//! | `quota-used#<YYYY-MM-DD>` | `#<category>` | `category`, `used` | 35 days after the day |
//!
//! Every write is conditional, and every read is consistent. A write that is sent twice, because its answer was lost,
//! counts once: a transaction is identified by its request token, any other write by `by`. `DynamoDB` removes expired
//! items with a delay, sometimes of days, so every reader compares times.

use std::{sync::Arc, time::Duration};

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_dynamodb::Client;

use super::{Bundles, Store, StoreError};
use crate::{AwsState, StateOptions};
use base::peer_text;
use net::{http_client::HttpOptions, peers::Peers};

mod budget;
mod bundles;
mod cursors;
mod error;
mod http;
mod inbox;
pub mod init;
mod leases;
mod ledger;
mod memory;
mod quotas;
mod rules;
mod secrets;
mod table;

pub use bundles::S3Bundles;
pub use http::http_client;
pub use inbox::SqsInbox;
pub use rules::S3Rules;
pub use secrets::SecretsManager;

/// Most attempts of a call that failed on the way, was throttled or met a server error of AWS.
const ATTEMPTS: u32 = 8;
/// Longest wait before the second attempt; it grows with each further one (full jitter).
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// Upper bound of the growing wait between attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// Time after which a call of `DynamoDB` is sent again. A call usually takes milliseconds.
const CALL: Duration = Duration::from_secs(10);

/// Opens the state on AWS. The SDK reads region, endpoint and credentials from the usual variables and files, while
/// proxies and certificate authorities come from the options. Opening sends no request, so a missing table or bucket
/// shows only at the first use.
///
/// # Errors
/// [`StoreError::Http`] if a proxy or a certificate authority cannot be used.
pub async fn open(options: &StateOptions, places: &AwsState) -> Result<Store, StoreError> {
    let config = config(&options.http, &options.peers).await?;
    store(options, &config, places)
}

/// Returns the configuration that all clients of AWS share.
///
/// # Errors
/// [`StoreError::Http`] if a proxy or a certificate authority cannot be used.
pub async fn config(http: &HttpOptions, peers: &Peers) -> Result<SdkConfig, StoreError> {
    let retries = RetryConfig::standard()
        .with_max_attempts(ATTEMPTS)
        .with_initial_backoff(FIRST_WAIT)
        .with_max_backoff(LONGEST_WAIT);
    let loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .retry_config(retries)
        .http_client(http_client(http, peers)?);
    let config = loader.load().await;
    let Some(provider) = config.credentials_provider() else { return Ok(config) };
    let provider = SharedCredentialsProvider::new(HiddenCredentials(provider));
    Ok(config.into_builder().credentials_provider(provider).build())
}

/// A provider that hides its credentials in errors and the log as soon as they are known.
#[derive(Debug)]
struct HiddenCredentials(SharedCredentialsProvider);

impl ProvideCredentials for HiddenCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let credentials = self.0.provide_credentials().await?;
            let secrets = [Some(credentials.secret_access_key()), credentials.session_token()];
            secrets.into_iter().flatten().for_each(|secret| peer_text::hide(&secret.into()));
            Ok(credentials)
        })
    }

    fn fallback_on_interrupt(&self) -> Option<aws_credential_types::Credentials> {
        self.0.fallback_on_interrupt()
    }
}

/// Returns a client of S3 with the timeouts of `config`.
fn s3(config: &SdkConfig) -> aws_sdk_s3::Client {
    // The buckets of an emulator have no host names of their own.
    let by_path = config.endpoint_url().is_some();
    let config = aws_sdk_s3::config::Builder::from(config).force_path_style(by_path).build();
    aws_sdk_s3::Client::from_conf(config)
}

/// Returns the state in `places`, whose clients use `config`.
///
/// # Errors
/// As [`local::open`](super::local::open).
pub fn store(
    options: &StateOptions,
    config: &SdkConfig,
    places: &AwsState,
) -> Result<Store, StoreError> {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(CALL).build();
    let client = aws_sdk_dynamodb::config::Builder::from(config).timeout_config(timeouts).build();
    let table = table::Table::new(Client::from_conf(client), &places.table);
    let bundles: Arc<dyn Bundles> = Arc::new(S3Bundles::new(config, &places.bucket, &options.dir)?);
    let inbox = SqsInbox::new(config, &options.queues, Arc::clone(&bundles));
    Ok(Store {
        cursors: Arc::new(cursors::AwsCursors(table.clone())),
        leases: Arc::new(leases::AwsLeases(table.clone())),
        ledger: Arc::new(ledger::AwsLedger(table.clone())),
        memory: Arc::new(memory::AwsMemory(table.clone())),
        quotas: Arc::new(quotas::AwsQuotas(table.clone())),
        bundles,
        inbox: Arc::new(inbox),
        budget: Arc::new(budget::AwsBudget(table)),
    })
}
