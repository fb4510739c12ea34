//! Makes what the settings name: for an emulator or an account to try in. Whoever runs this program for
//! good has its own means to.

use std::time::Duration;

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

use super::error::failed;
use crate::store::StoreError;

const PLACE: &str = "STATE_TABLE";
/// Between two looks at a table that is being made, and how many.
const LOOK: Duration = Duration::from_secs(1);
const LOOKS: u32 = 120;

/// Makes the table where there is none: `pk` and `sk`, paid by use. Waits until it can be used.
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
        let wrong = |error| StoreError::Unavailable { action: action.clone(), source: error };
        create = create
            .attribute_definitions(attribute.map_err(|error| wrong(error.into()))?)
            .key_schema(schema.map_err(|error| wrong(error.into()))?);
    }
    match create.send().await {
        Ok(_) => {}
        Err(error)
            if matches!(
                error.as_service_error(),
                Some(CreateTableError::ResourceInUseException(_))
            ) => {}
        Err(error) => return Err(failed(&action, PLACE, error)),
    }
    for _ in 0..LOOKS {
        let seen = client.describe_table().table_name(name).send().await;
        let seen = seen.map_err(|error| failed(&action, PLACE, error))?;
        let status = seen.table.and_then(|table| table.table_status);
        if status == Some(TableStatus::Active) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(StoreError::Unavailable { action, source: "it is not active after two minutes".into() })
}

/// Lets what expired in a table be removed, and its last 35 days be restored.
///
/// # Errors
/// [`StoreError::Refused`], [`StoreError::Unavailable`].
pub async fn keep_and_forget(config: &SdkConfig, name: &str) -> Result<(), StoreError> {
    let client = Client::new(config);
    let action = format!("setting the TTL of the table {name}");
    let seen = client.describe_time_to_live().table_name(name).send().await;
    let seen = seen.map_err(|error| failed(&action, PLACE, error))?;
    let status = seen.time_to_live_description.and_then(|ttl| ttl.time_to_live_status);
    // Asked for twice it is an error.
    if !matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)) {
        let ttl = TimeToLiveSpecification::builder().enabled(true).attribute_name("expires_at");
        let ttl = ttl.build().map_err(|error| StoreError::Unavailable {
            action: action.clone(),
            source: error.into(),
        })?;
        let set = client.update_time_to_live().table_name(name).time_to_live_specification(ttl);
        set.send().await.map_err(|error| failed(&action, PLACE, error))?;
    }
    let action = format!("setting the recovery of the table {name}");
    let recovery =
        PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true).build();
    let recovery = recovery.map_err(|error| StoreError::Unavailable {
        action: action.clone(),
        source: error.into(),
    })?;
    let set = client.update_continuous_backups().table_name(name);
    let set = set.point_in_time_recovery_specification(recovery).send().await;
    set.map_err(|error| failed(&action, PLACE, error))?;
    Ok(())
}
