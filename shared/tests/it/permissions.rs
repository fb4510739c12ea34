//! Each permission that infra/permissions.json gives `query` is needed by what it does with its state.

use std::collections::BTreeMap;

use azul_vt::{
    settings::Settings,
    store::{
        Store, StoreError, aws,
        budget::Window,
        inbox::{Item, NewItem, Queue, Retry},
    },
};
use jiff::{SignedDuration, Timestamp};
use sim::Aws;

use crate::store_aws::{config, config_of};

type Permissions = BTreeMap<String, Vec<String>>;

const NAME: &str = "azul-vt";
const BUCKET: &str = "azul-vt-bundles";

/// Does everything that `query` does with its state.
async fn work(store: &Store) -> Result<(), StoreError> {
    let (queue, now) = (Queue::Query, Timestamp::now());
    let hour = SignedDuration::from_hours(1);
    let Store { memory, budget, bundles, inbox, .. } = store;
    memory.remember("kind", "id", hour, now).await?;
    memory.knows("kind", "id", now).await?;
    memory.forget("kind", "id").await?;
    let window = Window { name: "hour", length: hour, limit: 9 };
    budget.ask("virustotal", &[window], now).await?;
    bundles.put("reports/1", b"{}").await?;
    bundles.open("reports/1").await?;
    for report in bundles.list("reports/").await? {
        bundles.remove(&report.key).await?;
    }
    // The second item is too large for a message.
    let item = |id: &str, body: String| NewItem { id: id.to_owned(), body };
    let items = [item("1", "{}".into()), item("2", format!("{:?}", "x".repeat(250_000)))];
    inbox.put(queue, &items, now).await?;
    inbox.counts(queue, now).await?;
    let mut taken: Vec<Item> = Vec::new();
    while taken.len() < 2 {
        taken.extend(inbox.take(queue, 2 - taken.len(), hour, now).await?);
    }
    for item in taken {
        inbox.hold(queue, &item, hour, now).await?;
        let again = Retry { after: SignedDuration::ZERO, is_attempt: true, ..Retry::default() };
        inbox.requeue(queue, &item, again, now).await?;
    }
    let mut left = 2;
    while left > 0 {
        for item in inbox.take(queue, left, hour, now).await? {
            match item.id.as_str() {
                "1" => inbox.bury(queue, &item, "a test", now).await?,
                _ => inbox.done(queue, &item).await?,
            };
            left -= 1;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_one_of_its_permissions_query_is_refused_and_told_which() {
    let Some(emulator) = Aws::start_guarded().unwrap() else { return };
    let owner = config(&emulator.endpoint()).await;
    let made = aws::init::create_all(&owner, NAME, BUCKET).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let all: BTreeMap<String, Permissions> =
        serde_json::from_str(include_str!("../../../infra/permissions.json")).unwrap();
    let mut all = all["query"].clone();
    all.retain(|what, _| !what.ends_with("_SECRET"));
    // Each store has a queue of its own, in which no earlier one left anything.
    let store = async |permissions: &Permissions| {
        let queue = emulator.name("inbox");
        let url = aws::init::queue(&owner, &queue).await.unwrap();
        let lookup = |name: &str| match name {
            "STATE_TABLE" => Some(made.table.clone()),
            "BUNDLE_BUCKET" => Some(made.bucket.clone()),
            "INBOX_QUEUE_URL" => Some(url.clone()),
            "STATEDIR" => Some(dir.path().display().to_string()),
            _ => None,
        };
        let settings = Settings::read(&lookup).unwrap();
        let resource = |what: &str| match what {
            "STATE_TABLE" => format!("arn:aws:dynamodb:us-east-1:000000000000:table/{NAME}"),
            "BUNDLE_BUCKET" => format!("arn:aws:s3:::{BUCKET}"),
            "BUNDLE_BUCKET/*" => format!("arn:aws:s3:::{BUCKET}/*"),
            "INBOX_QUEUE_URL" => format!("arn:aws:sqs:us-east-1:000000000000:{queue}"),
            _ => format!("arn:aws:sqs:us-east-1:000000000000:{queue}-dead"),
        };
        let user = emulator.user(&sim::policy(permissions, resource)).unwrap();
        let of = |name| user.iter().find(|(n, _)| *n == name).unwrap().1.as_str();
        let (id, secret) = (of("AWS_ACCESS_KEY_ID"), of("AWS_SECRET_ACCESS_KEY"));
        let config = config_of(&emulator.endpoint(), id, secret).await;
        aws::store(&settings.state_options(), &config, settings.aws.as_ref().unwrap()).unwrap()
    };
    work(&store(&all).await).await.unwrap();
    for (what, actions) in &all {
        for action in actions {
            let mut less = all.clone();
            less.get_mut(what).unwrap().retain(|one| one != action);
            less.retain(|_, actions| !actions.is_empty());
            let refused = work(&store(&less).await).await;
            let Err(StoreError::Refused { advice, source, .. }) = &refused else {
                panic!("{action} on {what}: {refused:?}")
            };
            assert!(advice.contains("what they may do with"), "{action}: {advice}");
            let said = azul_vt::errors::chain(&**source);
            assert!(said.contains(action), "{action}: {said}");
        }
    }
}
