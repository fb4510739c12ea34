//! Tests of the state on AWS, on an emulator: the suite, and cases that need AWS.

use std::sync::atomic::Ordering;

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig};
use aws_sdk_dynamodb::{
    config::{Credentials, SharedCredentialsProvider},
    types::AttributeValue,
};
use aws_sdk_sqs::types::QueueAttributeName;
use azul_vt::{
    settings::Settings,
    store::AwsState,
    store::{Counts, Lease, LedgerRow, MinuteState, Store, StoreError, aws},
};
use sim::Shared;
use tempfile::TempDir;

use crate::{
    store_suite::{self, at, race_for_a_quota, store_suite},
    wire::{Trouble, Wire},
};

struct Place {
    settings: Settings,
    config: SdkConfig,
    state: AwsState,
    _dir: TempDir,
    _aws: Shared,
}

/// Creates a new table. Expired items stay in it, because the cases' time is not the emulator's.
async fn place() -> Option<Place> {
    let emulator = sim::Aws::shared().unwrap()?;
    let config = config(&emulator.endpoint()).await;
    let state = AwsState { table: emulator.name("table"), bucket: emulator.name("bucket") };
    aws::init::table(&config, &state.table).await.unwrap();
    aws::init::bucket(&config, &state.bucket).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    Some(Place { settings: settings_in(&dir), config, state, _dir: dir, _aws: emulator })
}

fn credentials(id: &str, secret: &str) -> SharedCredentialsProvider {
    let credentials = Credentials::new(id, secret, None, None, "these tests");
    SharedCredentialsProvider::new(credentials)
}

fn settings_in(dir: &TempDir) -> Settings {
    let state_dir = dir.path().join("state").to_str().unwrap().to_owned();
    Settings::read(&|name| (name == "STATEDIR").then(|| state_dir.clone())).unwrap()
}

/// Returns the configuration of an emulator's owner.
pub(crate) async fn config(endpoint: &str) -> SdkConfig {
    config_of(endpoint, "test", "test").await
}

/// Returns the configuration of the user with this key at an emulator.
pub(crate) async fn config_of(endpoint: &str, id: &str, secret: &str) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .endpoint_url(endpoint)
        .region(Region::from_static("us-east-1"))
        .credentials_provider(credentials(id, secret))
        .http_client(aws::http_client(&<_>::default(), &<_>::default()).unwrap())
        .load()
        .await
}

async fn fresh() -> Option<(Store, Place)> {
    let place = place().await?;
    let store = aws::store(&place.settings.state_options(), &place.config, &place.state).unwrap();
    Some((store, place))
}

store_suite!(fresh);

/// Each call arrives twice and its first answer is lost. The second answer must be just as true.
mod twice {
    use super::*;

    async fn fresh() -> Option<(Store, Place)> {
        let place = place().await?;
        let config = place.config.to_builder().http_client(Wire::new(Trouble::Twice)).build();
        let store = aws::store(&place.settings.state_options(), &config, &place.state).unwrap();
        Some((store, place))
    }

    store_suite!(@table fresh);

    #[tokio::test]
    async fn a_quota_grants_its_limit_once_an_id() {
        let Some((store, _place)) = fresh().await else { return };
        race_for_a_quota(&store, 20, 100).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_meet_others_are_sent_again_until_they_get_through() {
    let Some(place) = place().await else { return };
    let wire = Wire::new(Trouble::Meetings);
    let refused = wire.refused();
    let config = place.config.to_builder().http_client(wire).build();
    let store = aws::store(&place.settings.state_options(), &config, &place.state).unwrap();
    store_suite::a_lease_that_was_taken_over_can_neither_write_nor_be_renewed(&store).await;
    store_suite::memory_of_many_ids_answers_for_each(&store).await;
    race_for_a_quota(&store, 5, 40).await;
    assert!(store.cursors.advance("load", None, 60).await.unwrap());
    assert!(refused.load(Ordering::Relaxed) > 300, "{refused:?}");
}

#[tokio::test]
async fn two_who_open_the_same_table_share_a_state() {
    let Some((first, place)) = fresh().await else { return };
    let second = aws::store(&place.settings.state_options(), &place.config, &place.state).unwrap();
    assert!(first.cursors.advance("load", None, 60).await.unwrap());
    assert_eq!(second.cursors.read("load").await.unwrap(), Some(60));
}

#[tokio::test]
async fn a_table_that_is_not_there_is_refused_with_what_to_do() {
    let Some(place) = place().await else { return };
    let state = AwsState { table: "not-there".into(), ..place.state.clone() };
    let store = aws::store(&place.settings.state_options(), &place.config, &state).unwrap();
    let lease = Lease { name: "load".into(), owner: String::new(), fence: 1, guard: None };
    let row = LedgerRow {
        minute: "202611240857".parse().unwrap(),
        state: MinuteState::Loaded,
        counts: Counts::default(),
        updated: at(0),
    };
    for answer in [
        store.cursors.read("load").await.map(drop),
        store.cursors.advance("load", None, 60).await.map(drop),
        store.ledger.put(&row, &lease).await,
        store.ledger.totals().await.map(drop),
    ] {
        let error = answer.unwrap_err();
        assert!(matches!(&error, StoreError::Refused { .. }), "{error:?}");
        assert!(!error.is_transient());
        let text = error.to_string();
        assert!(
            text.contains("STATE_TABLE names nothing") && text.contains("vt aws init"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_a_passing_failure() {
    let Some(place) = place().await else { return };
    let config = config("http://127.0.0.1:9").await.to_builder();
    let config = config.retry_config(RetryConfig::disabled()).build();
    let store = aws::store(&place.settings.state_options(), &config, &place.state).unwrap();
    let error = store.cursors.read("load").await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn an_item_that_makes_no_sense_is_named() {
    let Some((store, place)) = fresh().await else { return };
    let client = aws_sdk_dynamodb::Client::new(&place.config);
    let text = |text: &str| AttributeValue::S(text.to_owned());
    for (pk, sk, attribute) in [
        ("cursor#load", "-", "position"),
        ("ledger#2026-11", "202611240857", "row"),
        ("lease#load", "-", "until"),
    ] {
        let put = client.put_item().table_name(&place.state.table);
        let put = put.item("pk", text(pk)).item("sk", text(sk)).item(attribute, text("nonsense"));
        put.send().await.unwrap();
    }
    for (answer, name) in [
        (store.cursors.read("load").await.map(drop), "the cursor load"),
        (store.leases.holder("load", at(0)).await.map(drop), "the lease load"),
        (
            store.ledger.get("202611240857".parse().unwrap()).await.map(drop),
            "the ledger of minute 202611240857",
        ),
    ] {
        let error = answer.unwrap_err();
        assert!(matches!(&error, StoreError::Damaged { what, .. } if what == name), "{error:?}");
    }
}

#[tokio::test]
async fn everything_is_made_once_and_a_second_time_changes_nothing() {
    let Some(emulator) = sim::Aws::shared().unwrap() else { return };
    let config = config(&emulator.endpoint()).await;
    let (name, bucket) = (emulator.name("made"), emulator.name("made-bucket"));
    let made = aws::init::create_all(&config, &name, &bucket).await.unwrap();
    assert_eq!((&made.table, &made.bucket), (&name, &bucket));
    let settings: Vec<_> = made.to_string().lines().map(str::to_owned).collect();
    assert_eq!(
        settings[..2],
        [format!("export STATE_TABLE={name}"), format!("export BUNDLE_BUCKET={bucket}")]
    );
    assert!(settings[2].starts_with("export INBOX_QUEUE_URL=http://"), "{}", settings[2]);

    let database = aws_sdk_dynamodb::Client::new(&config);
    let cursor = || async {
        let read = database.get_item().table_name(&name);
        let read = read.key("pk", AttributeValue::S("cursor#load".into()));
        read.key("sk", AttributeValue::S("-".into())).send().await.unwrap().item
    };
    let state = AwsState { table: name.clone(), bucket: bucket.clone() };
    let dir = tempfile::tempdir().unwrap();
    let store = aws::store(&settings_in(&dir).state_options(), &config, &state).unwrap();
    assert!(store.cursors.advance("load", None, 60).await.unwrap());
    let before = cursor().await;
    assert!(before.is_some());
    assert_eq!(aws::init::create_all(&config, &name, &bucket).await.unwrap(), made);
    assert_eq!(cursor().await, before);

    let ttl = database.describe_time_to_live().table_name(&name).send().await.unwrap();
    let ttl = ttl.time_to_live_description.unwrap();
    assert_eq!(ttl.attribute_name.as_deref(), Some("expires_at"));
    let queues = aws_sdk_sqs::Client::new(&config);
    for url in [&made.inbox_queue, &made.download_queue, &made.minutes_queue] {
        let seen = queues.get_queue_attributes().queue_url(url);
        let seen = seen.attribute_names(QueueAttributeName::All).send().await.unwrap();
        let all = seen.attributes.unwrap();
        let redrive = &all[&QueueAttributeName::RedrivePolicy];
        assert!(redrive.contains("-dead") && redrive.contains(":10}"), "{redrive}");
        assert_eq!(all[&QueueAttributeName::VisibilityTimeout], "900");
    }
}

#[tokio::test]
async fn without_a_region_the_error_names_the_variables() {
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .credentials_provider(credentials("test", "test"))
        .build();
    let dir = tempfile::tempdir().unwrap();
    let state = AwsState { table: "table".into(), bucket: "bucket".into() };
    let store = aws::store(&settings_in(&dir).state_options(), &config, &state).unwrap();
    let error = store.cursors.read("load").await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("AWS_REGION"), "{error}");
}

#[tokio::test]
async fn aws_is_reached_through_the_proxy_of_the_settings() {
    let proxy = sim::Proxy::start().await.unwrap();
    let url = proxy.url();
    let lookup = |name: &str| (name == "HTTPS_PROXY").then(|| url.clone());
    let settings = Settings::read(&lookup).unwrap();
    let config = aws::config(&settings.http, &settings.peers).await.unwrap().into_builder();
    let config = config
        .endpoint_url("https://127.0.0.1:9")
        .region(Region::from_static("us-east-1"))
        .credentials_provider(credentials("test", "test"))
        .retry_config(RetryConfig::disabled())
        .build();
    let client = aws_sdk_dynamodb::Client::new(&config);
    // No server is behind the proxy, so the test checks only that the proxy was asked.
    client.list_tables().send().await.unwrap_err();
    let through = proxy.through();
    assert_eq!((through[0].method.as_str(), through[0].host.as_str()), ("CONNECT", "127.0.0.1:9"));
}

#[tokio::test]
async fn a_bad_ca_bundle_keeps_the_state_on_aws_closed() {
    let dir = tempfile::tempdir().unwrap();
    let pem = dir.path().join("ca.pem");
    std::fs::write(&pem, "not a certificate").unwrap();
    let settings = Settings::read(&|name| match name {
        "CA_BUNDLE" => Some(pem.to_str().unwrap().to_owned()),
        "STATE_TABLE" | "BUNDLE_BUCKET" => Some("azul-vt".to_owned()),
        _ => None,
    });
    let error = azul_vt::store::open(&settings.unwrap().state_options()).await.unwrap_err();
    assert!(error.to_string().starts_with("CA_BUNDLE="), "{error}");
}
