//! Bodies too large to post: put into a bucket by their senders, delivered by `load`.

use std::{path::Path, sync::Arc};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use azul_vt::{
    pipeline::{Pipeline, RunLimits},
    settings::Settings,
    store::AwsState,
    store::{Clock, SystemClock, aws},
};
use http::{Request, StatusCode};
use http_body_util::Full;
use ingest::Ingest;
use load::{Load, Trigger};
use serde_json::Value;
use sim::feed::Style;

async fn config(endpoint: &str) -> SdkConfig {
    let credentials =
        aws_sdk_s3::config::Credentials::new("test", "test", None, None, "these tests");
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .endpoint_url(endpoint)
        .region(Region::from_static("us-east-1"))
        .credentials_provider(credentials)
        .http_client(aws::http_client(&<_>::default(), &<_>::default()).unwrap())
        .load()
        .await
}

/// Returns S3's notification of a new object.
fn event(bucket: &str, key: &str) -> Value {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/events/object-created.json");
    let mut event: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    event["Records"][0]["s3"]["bucket"]["name"] = bucket.into();
    event["Records"][0]["s3"]["object"]["key"] = key.into();
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_is_uploaded_and_then_loaded_once() {
    let Some(emulator) = sim::Aws::shared().unwrap() else { return };
    let config = config(&emulator.endpoint()).await;
    let places = AwsState { table: emulator.name("table"), bucket: emulator.name("bucket") };
    aws::init::table(&config, &places.table).await.unwrap();
    aws::init::bucket(&config, &places.bucket).await.unwrap();
    let dispatcher = sim::Dispatcher::start().await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let lookup = |name: &str| match name {
        "PLUGIN_EVENTS_URL" => Some(dispatcher.url()),
        "STATEDIR" => Some(state.path().display().to_string()),
        "RULES_ROOT" => Some("/nowhere/at/all".to_owned()),
        "DISPATCHER_MAX_AGE_HOURS" => Some("-1".to_owned()),
        "INGEST_TOKENS" => Some("token".to_owned()),
        _ => None,
    };
    let settings = Settings::read(&lookup).unwrap();
    let store = aws::store(&settings.state_options(), &config, &places).unwrap();
    let clock = Arc::new(SystemClock);
    let pipeline = Pipeline::from_settings(&settings, store.clone()).await.unwrap();
    pipeline.register(clock.now(), &RunLimits::default()).await.unwrap();
    let ingest = Arc::new(
        Ingest::new(&settings, store.clone(), Arc::<SystemClock>::clone(&clock), pipeline).unwrap(),
    );

    let ask = async |token: &str| {
        let request = Request::post("/uploads").header("authorization", token);
        let response = ingest.handle(request.body(Full::default()).unwrap()).await;
        (response.status(), response.into_body())
    };
    assert_eq!(ask("Bearer other").await.0, StatusCode::UNAUTHORIZED);
    let (status, upload) = ask("Bearer token").await;
    assert_eq!(status, StatusCode::OK, "{upload:?}");
    let upload: Value = serde_json::from_slice(&upload).unwrap();
    assert_eq!(upload["method"], "PUT");

    let body = sim::feed::lines(1, "202611240900", 1200, Style::Real);
    assert!(body.len() > 30_000_000, "{}", body.len());
    let mut put = reqwest::Client::new().put(upload["url"].as_str().unwrap()).body(body);
    for (name, value) in upload["headers"].as_object().unwrap() {
        put = put.header(name, value.as_str().unwrap());
    }
    assert_eq!(put.send().await.unwrap().status(), StatusCode::OK);
    let incoming = store.bundles.list("incoming/").await.unwrap();
    assert_eq!(incoming.len(), 1);

    let load = Load::from_settings(settings, store.clone(), clock).await.unwrap();
    let triggers = Trigger::parse(&event(&places.bucket, &incoming[0].key)).unwrap();
    let [trigger] = triggers.as_slice() else { panic!("{triggers:?}") };
    let report = load.run(trigger, &RunLimits::default()).await.unwrap();
    assert_eq!((report.swept, report.counts.records, report.counts.delivered), (1, 1200, 1200));
    assert_eq!(dispatcher.arrived().sha256s().len(), 1200);
    assert!(store.bundles.list("incoming/").await.unwrap().is_empty());
    // S3 may send the same notification twice.
    let again = load.run(trigger, &RunLimits::default()).await.unwrap();
    assert_eq!((again.swept, again.counts.records), (0, 0));
}
