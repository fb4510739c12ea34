//! Rules in a bucket give the same set as those in a directory, and handle errors no worse.

use std::{fs, path::Path, time::Instant};

use azul_vt::{
    selection::{
        CHECK_INTERVAL, Directory, Loaded, Refresh, RuleError, RuleErrors, RuleSource, Rules,
    },
    store::aws::{self, S3Rules},
};
use futures_util::{StreamExt, stream};
use sim::Shared;

use crate::store_aws::config;

const PREFIX: &str = "azul/vt/";
const GOOD: &str = "- one: {syntax: gjson, rule: a, reference: r, daily_quota: 5}\n";
const BAD: &str = "- one: {syntax: gjson, rule: a, reference: r, daily_quota: -5}\n";

struct Place {
    aws: Shared,
    bucket: String,
    client: aws_sdk_s3::Client,
}

impl Place {
    async fn new() -> Option<Self> {
        let aws = sim::Aws::shared().unwrap()?;
        let bucket = aws.name("rules");
        let config = config(&aws.endpoint()).await;
        let client = aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build();
        let client = aws_sdk_s3::Client::from_conf(client);
        aws::init::bucket(&config, &bucket).await.unwrap();
        Some(Self { aws, bucket, client })
    }

    async fn put(&self, key: &str, content: impl Into<Vec<u8>>) {
        let put = self.client.put_object().bucket(&self.bucket).key(key);
        put.body(content.into().into()).send().await.unwrap();
    }

    async fn remove(&self, key: &str) {
        self.client.delete_object().bucket(&self.bucket).key(key).send().await.unwrap();
    }

    async fn rules(&self, prefix: &str) -> S3Rules {
        S3Rules::new(&config(&self.aws.endpoint()).await, &self.bucket, prefix)
    }

    async fn load(&self, prefix: &str, lenient: bool) -> Result<Loaded, RuleErrors> {
        load(&self.rules(prefix).await, lenient).await
    }
}

async fn load(source: &dyn RuleSource, lenient: bool) -> Result<Loaded, RuleErrors> {
    let seen = source.list().await.map_err(|error| RuleErrors(vec![error]))?;
    source.load(seen.as_ref(), lenient).await
}

fn categories(loaded: &Loaded) -> Vec<String> {
    loaded.rules.rules().iter().map(|rule| rule.category.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_in_a_bucket_are_those_that_a_directory_would_give() {
    let Some(place) = Place::new().await else { return };
    assert!(place.load(PREFIX, false).await.unwrap().missing);
    let example =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/select_rules/example"));
    let mut files = 0;
    for file in fs::read_dir(example).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        place.put(&format!("{PREFIX}below/{name}"), fs::read(&path).unwrap()).await;
        files += 1;
    }
    for key in ["azul/vt-other/x.yaml", "azul/vt/.old/x.yaml", "azul/vt/x.yml", "x.yaml"] {
        place.put(key, BAD).await;
    }
    let found = place.load(PREFIX, false).await.unwrap();
    let expected = load(&Directory(example.to_owned()), false).await.unwrap();
    assert!(files > 3 && !found.missing);
    assert_eq!(categories(&found), categories(&expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_names_the_object_the_line_and_the_rule_and_leniency_passes_over_it() {
    let Some(place) = Place::new().await else { return };
    place.put("a.yaml", format!("# a comment\n{BAD}")).await;
    place.put("b.yaml", GOOD).await;
    place.put("c.yaml", [0xff, 0xfe]).await;
    let errors = place.load("", false).await.unwrap_err().to_string();
    let bad = format!("s3://{}/a.yaml, line 2: rule `one`: has daily_quota -5", place.bucket);
    assert!(errors.contains(&bad), "{errors}");
    assert!(errors.contains(&format!("s3://{}/c.yaml: cannot be read", place.bucket)), "{errors}");
    let lenient = place.load("", true).await.unwrap();
    assert_eq!((categories(&lenient), lenient.errors.len()), (vec!["b/one".to_owned()], 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_follow_their_bucket_and_a_broken_set_keeps_the_old_one() {
    let Some(place) = Place::new().await else { return };
    place.put("azul/vt/a.yaml", GOOD).await;
    let mut now = Instant::now();
    let source = Box::new(place.rules(PREFIX).await);
    let (mut rules, errors, missing) = Rules::open(source, false, now).await.unwrap();
    assert!(errors.is_empty() && !missing);
    let mut look = async || {
        now += CHECK_INTERVAL;
        let found = rules.refresh(now).await;
        (found, rules.current().rules().first().unwrap().daily_quota)
    };
    assert!(matches!(look().await, (Refresh::Unchanged, 5)));
    // The text has the same length as the one before, and maybe the same second of change.
    place.put("azul/vt/a.yaml", GOOD.replace('5', "6")).await;
    assert!(matches!(look().await, (Refresh::Reloaded(errors), 6) if errors.is_empty()));
    place.put("azul/vt/a.yaml", BAD).await;
    assert!(matches!(look().await, (Refresh::Broken(_), 6)));
    assert!(matches!(look().await, (Refresh::Unchanged, 6)));
    place.remove("azul/vt/a.yaml").await;
    let (gone, quota) = look().await;
    assert!(
        matches!(&gone, Refresh::Broken(e) if matches!(&e.0[..], [RuleError::Gone { .. }])),
        "{gone:?}"
    );
    assert_eq!(quota, 6);
    place.put("azul/vt/b.yaml", GOOD).await;
    assert!(matches!(look().await, (Refresh::Reloaded(_), 5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_out_of_reach_keeps_the_rules_and_is_looked_at_again() {
    let Some(place) = Place::new().await else { return };
    place.put("a.yaml", GOOD).await;
    let mut now = Instant::now();
    let source = Box::new(place.rules("").await);
    let (mut rules, ..) = Rules::open(source, true, now).await.unwrap();
    place.remove("a.yaml").await;
    place.client.delete_bucket().bucket(&place.bucket).send().await.unwrap();
    for _ in 0..2 {
        now += CHECK_INTERVAL;
        let Refresh::Broken(errors) = rules.refresh(now).await else {
            panic!("there is no bucket")
        };
        let errors = errors.to_string();
        let cause = format!("s3://{}/: cannot be read: ", place.bucket);
        assert!(errors.starts_with(&cause), "{errors}");
        assert!(errors.contains("RULES_ROOT names nothing"), "{errors}");
        assert_eq!(rules.current().rules()[0].daily_quota, 5);
    }
    let config = config(&place.aws.endpoint()).await;
    aws::init::bucket(&config, &place.bucket).await.unwrap();
    place.put("a.yaml", GOOD.replace('5', "6")).await;
    now += CHECK_INTERVAL;
    assert!(matches!(rules.refresh(now).await, Refresh::Reloaded(_)));
    assert_eq!(rules.current().rules()[0].daily_quota, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_read_than_rules_can_be() {
    let Some(place) = Place::new().await else { return };
    place.put("one/x.yaml", vec![b'#'; 1024 * 1024 + 1]).await;
    let whole = vec![b'#'; 1024 * 1024];
    for n in 0..17 {
        place.put(&format!("all/{n}.yaml"), whole.clone()).await;
    }
    let put = |n| place.put_empty(n);
    stream::iter(0..=1000).map(put).buffer_unordered(16).collect::<Vec<()>>().await;
    for (prefix, limit) in [
        ("one/", "one/x.yaml: is larger than 1 MiB"),
        ("all/", "all/: holds more than 16 MiB of rules"),
        ("many/", "many/: holds more than 1000 rule files"),
    ] {
        let error = place.load(prefix, true).await.unwrap_err().to_string();
        assert!(error.ends_with(limit), "{error}");
    }
}

impl Place {
    async fn put_empty(&self, number: u32) {
        self.put(&format!("many/{number}.yaml"), "").await;
    }
}
