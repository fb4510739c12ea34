//! Tests of bundles on S3 that need a bucket on an emulator.

use std::{io::Read, sync::Arc};

use aws_sdk_s3::types::ServerSideEncryption;
use azul_vt::store::{Bundles, StoreError, aws, aws::S3Bundles};
use jiff::{SignedDuration, Timestamp};
use sim::{Chaos, Mode, Shared};
use tempfile::TempDir;

use crate::{store_aws::config, store_suite::large};

/// A new bucket, which S3's own client and this project's use.
struct Place {
    aws: Shared,
    name: String,
    client: aws_sdk_s3::Client,
    dir: TempDir,
}

impl Place {
    async fn new() -> Option<Self> {
        let aws = sim::Aws::shared().unwrap()?;
        let name = aws.name("bundles");
        let config = config(&aws.endpoint()).await;
        let client = aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build();
        let client = aws_sdk_s3::Client::from_conf(client);
        aws::init::bucket(&config, &name).await.unwrap();
        Some(Self { aws, name, client, dir: tempfile::tempdir().unwrap() })
    }

    async fn bundles(&self) -> Arc<S3Bundles> {
        self.bundles_at(&self.aws.endpoint()).await
    }

    async fn bundles_at(&self, endpoint: &str) -> Arc<S3Bundles> {
        let config = config(endpoint).await;
        Arc::new(S3Bundles::new(&config, &self.name, self.dir.path()).unwrap())
    }

    async fn uploads(&self) -> usize {
        let listed = self.client.list_multipart_uploads().bucket(&self.name).send().await.unwrap();
        listed.uploads().len()
    }

    /// Puts an object without this project's code.
    async fn put(&self, key: &str, content: Vec<u8>) {
        let put = self.client.put_object().bucket(&self.name).key(key);
        put.body(content.into()).send().await.unwrap();
    }
}

async fn read(bundles: &dyn Bundles, key: &str) -> std::io::Result<Vec<u8>> {
    let mut reader = bundles.open(key).await.unwrap().unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let mut content = Vec::new();
        reader.read_to_end(&mut content).map(|_| content)
    });
    read.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_encrypted_and_say_what_they_are() {
    let Some(place) = Place::new().await else { return };
    let bundles = place.bundles().await;
    let from = bundles.scratch().join("from");
    for (key, size, kind) in [
        ("staged/1.bz2", 5, "application/x-bzip2"),
        ("staged/large.bz2", 9 * 1024 * 1024, "application/x-bzip2"),
        ("posted/abc", 5, "application/octet-stream"),
    ] {
        std::fs::write(&from, vec![b'x'; size]).unwrap();
        assert!(bundles.put_file(key, &from).await.unwrap());
        let head = place.client.head_object().bucket(&place.name).key(key).send().await.unwrap();
        assert_eq!(head.content_type(), Some(kind), "{key}");
        assert_eq!(
            head.server_side_encryption().map(ServerSideEncryption::as_str),
            Some("AES256"),
            "{key}"
        );
    }
    bundles.put("rejects/a.jsonl", b"{}").await.unwrap();
    let head = place.client.head_object().bucket(&place.name).key("rejects/a.jsonl").send().await;
    let head = head.unwrap();
    assert_eq!(head.content_type(), Some("application/x-ndjson"));
    assert_eq!(head.server_side_encryption().map(ServerSideEncryption::as_str), Some("AES256"));
}

const ROLE: &str = "AZUL_VT_TEST_S3_CHILD";

/// Puts and reads a large object, and prints how much memory that took. It does nothing unless the environment asks for
/// it. It runs in a process of its own, because other tests hold large objects themselves.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(asked) = std::env::var(ROLE) else { return };
    let [endpoint, bucket, file, dir] = asked.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let bundles = S3Bundles::new(&config(endpoint).await, bucket, dir.as_ref()).unwrap();
    let size = std::fs::metadata(file).unwrap().len();
    bundles.put("small", b"so that all is set up").await.unwrap();
    let before = peak();
    assert!(bundles.put_file("large", file.as_ref()).await.unwrap());
    let mut reader = bundles.open("large").await.unwrap().unwrap();
    let read = tokio::task::spawn_blocking(move || {
        std::io::copy(&mut reader, &mut std::io::sink()).unwrap()
    });
    assert_eq!(read.await.unwrap(), size);
    println!("\n> {} KiB", peak() - before);
}

/// Returns the most memory that this process ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn an_object_goes_up_and_comes_down_in_little_memory() {
    let Some(place) = Place::new().await else { return };
    let file = place.dir.path().join("large");
    std::fs::write(&file, vec![b'x'; 128 * 1024 * 1024]).unwrap();
    let (endpoint, dir) = (place.aws.endpoint(), place.dir.path().join("child"));
    let asked = format!("{endpoint} {} {} {}", place.name, file.display(), dir.display());
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "s3::child", "--nocapture", "--test-threads=1"])
        .env(ROLE, asked)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let took = said.lines().find_map(|line| line.strip_prefix("> ")?.strip_suffix(" KiB"));
    let took: u64 = took.unwrap_or_else(|| panic!("{output:?}")).parse().unwrap();
    assert!(took < 48 * 1024, "{took} KiB for an object of 128 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_gone_on_with_where_it_broke() {
    let Some(place) = Place::new().await else { return };
    let large = large();
    place.put("staged/large", large.clone()).await;
    let chaos = Chaos::start(&place.aws.endpoint()).await.unwrap();
    let bundles = place.bundles_at(&chaos.url()).await;
    chaos.set(Mode::CutResponseAfter(7 * 1024 * 1024));
    assert!(read(&*bundles, "staged/large").await.unwrap() == large, "another content");
    assert!(chaos.connections() >= 5, "{}", chaos.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_gives_nothing_more_is_an_error_and_not_an_end() {
    let Some(place) = Place::new().await else { return };
    let large = large();
    place.put("staged/large", large.clone()).await;
    let chaos = Chaos::start(&place.aws.endpoint()).await.unwrap();
    let bundles = place.bundles_at(&chaos.url()).await;
    chaos.set(Mode::CutResponseAfter(7 * 1024 * 1024));
    let mut reader = bundles.open("staged/large").await.unwrap().unwrap();
    chaos.set(Mode::Refuse);
    let read = tokio::task::spawn_blocking(move || {
        let mut content = Vec::new();
        (reader.read_to_end(&mut content), content)
    });
    let (outcome, content) = read.await.unwrap();
    let error = outcome.unwrap_err();
    // This kind would mean that the bundle is truncated.
    assert_ne!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(large.starts_with(&content) && !content.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_changes_while_it_is_read_is_no_mixture() {
    let Some(place) = Place::new().await else { return };
    let large = large();
    place.put("incoming/a", large.clone()).await;
    let chaos = Chaos::start(&place.aws.endpoint()).await.unwrap();
    let bundles = place.bundles_at(&chaos.url()).await;
    chaos.set(Mode::CutResponseAfter(7 * 1024 * 1024));
    let mut reader = bundles.open("incoming/a").await.unwrap().unwrap();
    place.put("incoming/a", vec![0; large.len()]).await;
    let read = tokio::task::spawn_blocking(move || {
        let mut content = Vec::new();
        (reader.read_to_end(&mut content), content)
    });
    let (outcome, content) = read.await.unwrap();
    assert!(outcome.is_err());
    assert!(large.starts_with(&content));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_fails_leaves_no_parts_behind() {
    let Some(place) = Place::new().await else { return };
    let chaos = Chaos::start(&place.aws.endpoint()).await.unwrap();
    let bundles = place.bundles_at(&chaos.url()).await;
    let from = bundles.scratch().join("from");
    let large = large();
    std::fs::write(&from, &large).unwrap();
    // The start of the upload passes, but not all of its parts do.
    chaos.set(Mode::CutRequestAfter(4 * 1024 * 1024));
    let failed = bundles.put_file("staged/large", &from).await;
    assert!(matches!(failed, Err(StoreError::Unavailable { .. })), "{failed:?}");
    assert!(from.exists(), "what failed can be tried again");
    chaos.set(Mode::Pass);
    // The abort is sent in the background. If the fault hits it, the bucket's lifecycle rule removes the upload.
    let mut looks = 0;
    while place.uploads().await > 0 && looks < 100 {
        looks += 1;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(place.uploads().await, 0);
    assert!(bundles.put_file("staged/large", &from).await.unwrap());
    assert!(read(&*bundles, "staged/large").await.unwrap() == large);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_objects_than_a_page_are_listed_and_foreign_names_are_not() {
    let Some(place) = Place::new().await else { return };
    let bundles = place.bundles().await;
    let keys: Vec<String> = (0..1005).map(|n| format!("staged/{n:04}")).collect();
    let puts = keys.iter().map(|key| place.put(key, Vec::new()));
    futures_util::future::join_all(puts).await;
    for foreign in ["staged/", "staged/.hidden", "staged//a"] {
        place.put(foreign, Vec::new()).await;
    }
    let listed: Vec<_> =
        bundles.list("staged/").await.unwrap().into_iter().map(|b| b.key).collect();
    assert_eq!(listed, keys);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_presigned_upload_puts_one_object_once_and_in_time() {
    let Some(place) = Place::new().await else { return };
    let bundles = place.bundles().await;
    let (key, now) = ("incoming/a b+ü.bz2", Timestamp::now());
    let quarter = SignedDuration::from_mins(15);
    let upload = bundles.presign_put(key, quarter, now).await.unwrap().unwrap();
    assert_eq!(upload.expires, now + quarter);
    assert!(!format!("{upload:?}").contains("Signature"), "{upload:?}");
    let client = reqwest::Client::new();
    let put = async |url: url::Url, headers: &[(String, String)]| {
        let mut request = client.put(url).body("content");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.send().await.unwrap().status().as_u16()
    };
    let mut other = upload.url.clone();
    other.set_path(&format!("{}c", upload.url.path()));
    assert_eq!(put(other, &upload.headers).await, 403, "another key");
    assert_eq!(put(upload.url.clone(), &[]).await, 403, "without its headers");
    assert_eq!(put(upload.url.clone(), &upload.headers).await, 200);
    assert_eq!(put(upload.url.clone(), &upload.headers).await, 412, "a second time");
    assert_eq!(read(&*bundles, key).await.unwrap(), b"content");
    let old = now - SignedDuration::from_hours(1);
    let old = bundles.presign_put("incoming/old", quarter, old).await.unwrap().unwrap();
    assert_eq!(put(old.url, &old.headers).await, 403, "too late");
}
