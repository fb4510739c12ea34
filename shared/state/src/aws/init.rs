//! Creates the resources that the settings name, for an emulator or an account to try the program in. A production
//! deployment creates its own. Existing resources are kept, or set as new ones would be.

use std::{fmt, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    operation::create_table::CreateTableError,
    types::{
        AttributeDefinition, BillingMode, KeySchemaElement, KeyType,
        PointInTimeRecoverySpecification, ScalarAttributeType, TableStatus,
        TimeToLiveSpecification, TimeToLiveStatus,
    },
};
use aws_sdk_s3::types::{
    AbortIncompleteMultipartUpload, BucketLifecycleConfiguration, BucketLocationConstraint,
    CreateBucketConfiguration, ExpirationStatus, LifecycleRule, LifecycleRuleFilter,
    PublicAccessBlockConfiguration,
};
use aws_sdk_sqs::types::QueueAttributeName;

use super::{
    error::{failed, unavailable},
    s3,
};
use crate::StoreError;

/// Time between two looks at a table that is being created.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Most looks at a table that is being created.
const LOOKS: u32 = 120;
/// Deliveries of a message before SQS moves it to the dead-letter queue. It takes effect only if every worker that
/// should have given the item up died before.
const DELIVERIES: u32 = 10;
/// Visibility timeout in seconds: the longest run of a Lambda function.
const VISIBILITY: u32 = 900;
/// Retention of messages in seconds, which is SQS's maximum.
const RETENTION: u32 = 14 * 24 * 3600;

/// Names of the created resources, each for its setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedResources {
    /// `STATE_TABLE`.
    pub table: String,
    /// `BUNDLE_BUCKET`.
    pub bucket: String,
    /// `INBOX_QUEUE_URL`.
    pub inbox_queue: String,
    /// URL of the queue of downloads.
    pub download_queue: String,
    /// `MINUTES_QUEUE_URL`.
    pub minutes_queue: String,
}

impl fmt::Display for CreatedResources {
    /// Writes `export` lines for a shell.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "export STATE_TABLE={}", self.table)?;
        writeln!(f, "export BUNDLE_BUCKET={}", self.bucket)?;
        writeln!(f, "export INBOX_QUEUE_URL={}", self.inbox_queue)?;
        writeln!(f, "export DOWNLOAD_QUEUE_URL={}", self.download_queue)?;
        write!(f, "export MINUTES_QUEUE_URL={}", self.minutes_queue)
    }
}

/// Creates everything: the table `name`, the bucket, and the queues `<name>-inbox`, `<name>-downloads` and
/// `<name>-minutes`. Each queue has a dead-letter queue `…-dead` for messages that were delivered ten times in vain.
///
/// # Errors
/// [`StoreError::Refused`] and [`StoreError::Unavailable`]. Resources that were created before the error stay.
pub async fn create_all(
    config: &SdkConfig,
    name: &str,
    bucket_name: &str,
) -> Result<CreatedResources, StoreError> {
    table(config, name).await?;
    enable_ttl_and_backups(config, name).await?;
    bucket(config, bucket_name).await?;
    Ok(CreatedResources {
        table: name.to_owned(),
        bucket: bucket_name.to_owned(),
        inbox_queue: queue(config, &format!("{name}-inbox")).await?,
        download_queue: queue(config, &format!("{name}-downloads")).await?,
        minutes_queue: queue(config, &format!("{name}-minutes")).await?,
    })
}

/// Creates a table with the keys `pk` and `sk` that is paid by use, and waits until it can be used.
///
/// # Errors
/// [`StoreError::Refused`], [`StoreError::Unavailable`].
pub async fn table(config: &SdkConfig, name: &str) -> Result<(), StoreError> {
    let client = Client::new(config);
    let action = format!("making the table {name}");
    let mut create =
        client.create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
    for (key, kind) in [("pk", KeyType::Hash), ("sk", KeyType::Range)] {
        let attribute = AttributeDefinition::builder()
            .attribute_name(key)
            .attribute_type(ScalarAttributeType::S)
            .build();
        let schema = KeySchemaElement::builder().attribute_name(key).key_type(kind).build();
        create = create
            .attribute_definitions(attribute.map_err(|error| unavailable(&action, error))?)
            .key_schema(schema.map_err(|error| unavailable(&action, error))?);
    }
    match create.send().await {
        Ok(_) => {}
        Err(error)
            if matches!(
                error.as_service_error(),
                Some(CreateTableError::ResourceInUseException(_))
            ) => {}
        Err(error) => return Err(failed(&action, "STATE_TABLE", error)),
    }
    for _ in 0..LOOKS {
        let seen = client.describe_table().table_name(name).send().await;
        let seen = seen.map_err(|error| failed(&action, "STATE_TABLE", error))?;
        if seen.table.and_then(|table| table.table_status) == Some(TableStatus::Active) {
            return Ok(());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Err(unavailable(&action, "it is not active after two minutes"))
}

/// Enables the expiry of items in a table, and backups by which any state of the last 35 days can be restored.
///
/// # Errors
/// [`StoreError::Refused`], [`StoreError::Unavailable`].
pub async fn enable_ttl_and_backups(config: &SdkConfig, name: &str) -> Result<(), StoreError> {
    let client = Client::new(config);
    let action = format!("setting what the table {name} forgets");
    let seen = client.describe_time_to_live().table_name(name).send().await;
    let seen = seen.map_err(|error| failed(&action, "STATE_TABLE", error))?;
    let status = seen.time_to_live_description.and_then(|ttl| ttl.time_to_live_status);
    // Enabling it again would be an error.
    if !matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)) {
        let ttl = TimeToLiveSpecification::builder().enabled(true).attribute_name("expires_at");
        let ttl = ttl.build().map_err(|error| unavailable(&action, error))?;
        let set = client.update_time_to_live().table_name(name).time_to_live_specification(ttl);
        set.send().await.map_err(|error| failed(&action, "STATE_TABLE", error))?;
    }
    let action = format!("setting what the table {name} keeps for a restore");
    let recovery =
        PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true).build();
    let recovery = recovery.map_err(|error| unavailable(&action, error))?;
    let set = client.update_continuous_backups().table_name(name);
    let set = set.point_in_time_recovery_specification(recovery).send().await;
    set.map_err(|error| failed(&action, "STATE_TABLE", error))?;
    Ok(())
}

/// Creates a bucket that nobody outside of the account can read, and that removes broken-off uploads.
///
/// # Errors
/// [`StoreError::Refused`], [`StoreError::Unavailable`].
pub async fn bucket(config: &SdkConfig, name: &str) -> Result<(), StoreError> {
    let client = s3(config);
    let action = format!("making the bucket {name}");
    // S3 refuses `us-east-1` as a location; it is the default.
    let region = config.region().map(ToString::to_string).filter(|region| region != "us-east-1");
    let place = region.map(|region| {
        let region = BucketLocationConstraint::from(region.as_str());
        CreateBucketConfiguration::builder().location_constraint(region).build()
    });
    let made = client.create_bucket().bucket(name).set_create_bucket_configuration(place);
    match made.send().await {
        Ok(_) => {}
        Err(error)
            if error.as_service_error().is_some_and(
                aws_sdk_s3::operation::create_bucket::CreateBucketError::is_bucket_already_owned_by_you,
            ) => {}
        Err(error) => return Err(failed(&action, "BUNDLE_BUCKET", error)),
    }
    let action = format!("closing the bucket {name} to others");
    let block = PublicAccessBlockConfiguration::builder()
        .block_public_acls(true)
        .block_public_policy(true)
        .ignore_public_acls(true)
        .restrict_public_buckets(true)
        .build();
    let set = client.put_public_access_block().bucket(name);
    let set = set.public_access_block_configuration(block).send().await;
    set.map_err(|error| failed(&action, "BUNDLE_BUCKET", error))?;
    let action = format!("setting what the bucket {name} forgets");
    let abort = AbortIncompleteMultipartUpload::builder().days_after_initiation(1).build();
    let rule = LifecycleRule::builder()
        .id("uploads-that-broke-off")
        .status(ExpirationStatus::Enabled)
        .filter(LifecycleRuleFilter::builder().prefix("").build())
        .abort_incomplete_multipart_upload(abort)
        .build()
        .and_then(|rule| BucketLifecycleConfiguration::builder().rules(rule).build());
    let rules = rule.map_err(|error| unavailable(&action, error))?;
    let set = client.put_bucket_lifecycle_configuration().bucket(name);
    let set = set.lifecycle_configuration(rules).send().await;
    set.map_err(|error| failed(&action, "BUNDLE_BUCKET", error))?;
    Ok(())
}

/// Creates a queue and its dead-letter queue, and returns the first one's URL.
///
/// # Errors
/// [`StoreError::Refused`], [`StoreError::Unavailable`].
pub async fn queue(config: &SdkConfig, name: &str) -> Result<String, StoreError> {
    let client = aws_sdk_sqs::Client::new(config);
    let dead = one_queue(&client, &format!("{name}-dead"), None).await?;
    let action = format!("looking at the queue {name}-dead");
    let seen = client.get_queue_attributes().queue_url(&dead);
    let seen = seen.attribute_names(QueueAttributeName::QueueArn).send().await;
    let seen = seen.map_err(|error| failed(&action, "the queue", error))?;
    let arn = seen.attributes.and_then(|mut all| all.remove(&QueueAttributeName::QueueArn));
    let arn = arn.ok_or_else(|| unavailable(&action, "it has no ARN"))?;
    let redrive = serde_json::json!({ "deadLetterTargetArn": arn, "maxReceiveCount": DELIVERIES });
    one_queue(&client, name, Some(redrive.to_string())).await
}

async fn one_queue(
    client: &aws_sdk_sqs::Client,
    name: &str,
    redrive: Option<String>,
) -> Result<String, StoreError> {
    // The queue is created without attributes, because they would be refused if the queue exists with others.
    let action = format!("making the queue {name}");
    let made = client.create_queue().queue_name(name).send().await;
    let url = made.map_err(|error| failed(&action, "the queue", error))?.queue_url;
    let url = url.ok_or_else(|| unavailable(&action, "it has no URL"))?;
    let set = client
        .set_queue_attributes()
        .queue_url(&url)
        .attributes(QueueAttributeName::VisibilityTimeout, VISIBILITY.to_string())
        .attributes(QueueAttributeName::MessageRetentionPeriod, RETENTION.to_string())
        .attributes(QueueAttributeName::SqsManagedSseEnabled, "true");
    let set = match redrive {
        Some(redrive) => set.attributes(QueueAttributeName::RedrivePolicy, redrive),
        None => set,
    };
    set.send().await.map_err(|error| failed(&action, "the queue", error))?;
    Ok(url)
}
