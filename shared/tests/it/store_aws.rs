//! The AWS family, on an emulator: the suite, and what only AWS can show.

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::Credentials;
use azul_vt::{
    settings::{AwsState, Settings},
    store::{Store, aws},
};
use sim::Shared;
use tempfile::TempDir;

use crate::store_suite::store_suite;

struct Place {
    settings: Settings,
    config: SdkConfig,
    state: AwsState,
    _dir: TempDir,
    _aws: Shared,
}

/// A new table. What expires in it stays: the cases' time is not the emulator's.
async fn place() -> Option<Place> {
    let emulator = sim::Aws::shared().unwrap()?;
    let config = config(&emulator.endpoint()).await;
    let state = AwsState { table: emulator.name("table"), bucket: emulator.name("bucket") };
    aws::init::table(&config, &state.table).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state").to_str().unwrap().to_owned();
    let lookup = |name: &str| (name == "STATEDIR").then(|| state_dir.clone());
    let settings = Settings::read(&lookup).unwrap();
    Some(Place { settings, config, state, _dir: dir, _aws: emulator })
}

async fn config(endpoint: &str) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .endpoint_url(endpoint)
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "these tests"))
        .load()
        .await
}

async fn fresh() -> Option<(Store, Place)> {
    let place = place().await?;
    let store = aws::store(&place.settings, &place.config, &place.state).unwrap();
    Some((store, place))
}

store_suite!(fresh);
