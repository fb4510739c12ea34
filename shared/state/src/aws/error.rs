//! Converts errors of AWS to [`StoreError`].

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

use crate::StoreError;

/// Error codes which mean that the caller lacks valid credentials or permissions.
const FORBIDDEN: [&str; 14] = [
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "InvalidToken",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "OptInRequired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// Error codes which mean that the requested resource does not exist.
const ABSENT: [&str; 5] = [
    "AWS.SimpleQueueService.NonExistentQueue",
    "NoSuchBucket",
    "QueueDoesNotExist",
    "ResourceNotFoundException",
    "TableNotFoundException",
];

/// Returns the error for an `action` that failed for a reason that may pass.
pub(super) fn unavailable(
    action: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Unavailable { action: action.to_owned(), source: source.into() }
}

/// Returns the error for an `action` that AWS refused or that failed on the way. `place` is the setting that names the
/// resource.
pub(super) fn failed<E, R>(action: &str, place: &str, error: SdkError<E, R>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    // An error that is neither a connection's failure nor known to pass came before any connection: there is no region,
    // or there are no credentials.
    let unasked = match &error {
        SdkError::ConstructionFailure(_) => true,
        SdkError::DispatchFailure(failure) => failure.is_other() && failure.as_other().is_none(),
        _ => false,
    };
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default();
    let advice = if FORBIDDEN.contains(&code) {
        format!("look at the credentials (AWS_*) and what they may do with {place}")
    } else if ABSENT.contains(&code) {
        format!("{place} names nothing: correct it or AWS_REGION, or make it by `vt aws init`")
    } else if code == "ValidationException" {
        format!("{place} does not fit this program: make one by `vt aws init`")
    } else if unasked {
        "look at AWS_REGION, AWS_ENDPOINT_URL and the credentials (AWS_*)".to_owned()
    } else {
        return unavailable(action, error);
    };
    StoreError::Refused { action: action.to_owned(), advice, source: error.into() }
}
