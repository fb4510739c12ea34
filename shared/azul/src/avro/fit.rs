//! Cuts features off an event so that it fits the size limit of the dispatcher's broker.

use std::mem;

use thiserror::Error;

use super::{BLOCK_ITEMS, writer};
use crate::{
    event::{BinaryEvent, Feature, ModelVersion, feature_type},
    limits::MAX_FEATURES,
};

/// Name of the feature (an integer) that says how many features were cut off.
pub const FEATURES_TRUNCATED: &str = "features_truncated";

/// The bytes of one event, ready for [`super::bulk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The event in Avro, not longer than the limit that was given.
    pub bytes: Vec<u8>,
    /// Number of features that were cut off.
    pub truncated_features: usize,
}

/// Error for an event that exceeds the limit even without its features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the event takes {bytes} bytes without its features; {max} are allowed")]
pub struct TooLarge {
    /// Size of the event without features, in bytes of Avro.
    pub bytes: usize,
    /// The limit, in bytes.
    pub max: usize,
}

/// Encodes an event so that it takes at most `max_event_bytes` and has no more features than Azul takes. Features that
/// do not fit are cut from the end of their list, as few as possible, and a last feature [`FEATURES_TRUNCATED`] says
/// how many.
///
/// The dispatcher encodes the event again with its key and tracking fields set, which adds some hundred bytes. The
/// limit must leave room for them.
///
/// # Errors
/// [`TooLarge`] if the event does not fit even without its features.
pub fn fit(
    mut event: BinaryEvent,
    version: ModelVersion,
    max_event_bytes: usize,
) -> Result<Encoded, TooLarge> {
    let mut bytes = Vec::with_capacity(writer::size_hint(&event));
    writer::encode_binary(&event, version, &mut bytes);
    if fits(&event, &bytes, max_event_bytes) {
        return Ok(Encoded { bytes, truncated_features: 0 });
    }

    let truncated_features = cut(&mut event, version, max_event_bytes)?;
    bytes.clear();
    writer::encode_binary(&event, version, &mut bytes);
    Ok(Encoded { bytes, truncated_features })
}

/// Returns the event as [`fit`] would encode it: whole, or with as few features cut off as possible.
///
/// # Errors
/// [`TooLarge`] if the event does not fit even without its features.
pub fn cut_to_fit(
    mut event: BinaryEvent,
    version: ModelVersion,
    max_event_bytes: usize,
) -> Result<BinaryEvent, TooLarge> {
    let mut bytes = Vec::with_capacity(writer::size_hint(&event));
    writer::encode_binary(&event, version, &mut bytes);
    if !fits(&event, &bytes, max_event_bytes) {
        cut(&mut event, version, max_event_bytes)?;
    }
    Ok(event)
}

fn fits(event: &BinaryEvent, bytes: &[u8], max_event_bytes: usize) -> bool {
    bytes.len() <= max_event_bytes && event.entity.features.len() <= MAX_FEATURES
}

/// Cuts features off an event that exceeds the limit, and returns their number.
fn cut(
    event: &mut BinaryEvent,
    version: ModelVersion,
    max_event_bytes: usize,
) -> Result<usize, TooLarge> {
    let mut features = mem::take(&mut event.entity.features);
    let mut bytes = Vec::new();
    writer::encode_binary(event, version, &mut bytes);
    let too_large = TooLarge { bytes: bytes.len(), max: max_event_bytes };
    let room = max_event_bytes.checked_sub(bytes.len()).ok_or(too_large)?;
    let kept = longest_start(&features, room).ok_or(too_large)?;
    let truncated = features.len() - kept;
    features.truncate(kept);
    features.push(marker(truncated));
    event.entity.features = features;
    Ok(truncated)
}

fn marker(cut: usize) -> Feature {
    Feature::new(FEATURES_TRUNCATED, cut.to_string(), feature_type::INTEGER)
}

/// Returns how many leading features fit into `room` bytes and into Azul's limit, with the marker for the features that
/// are cut; at least one is cut. `None`: there is no feature to cut, or not even the marker fits. One pass is enough,
/// because the blocks grow with each feature.
fn longest_start(features: &[Feature], room: usize) -> Option<usize> {
    let mut scratch = Vec::new();
    let mut len = |feature: &Feature| {
        scratch.clear();
        writer::feature(feature, &mut scratch);
        scratch.len()
    };
    let mut fitting = None;
    let mut full_blocks = 0;
    let (mut count, mut size) = (0, 0);
    for (kept, next) in features.iter().enumerate().take(MAX_FEATURES) {
        if count == BLOCK_ITEMS {
            full_blocks += writer::block_len(count, size);
            (count, size) = (0, 0);
        }
        let marker = len(&marker(features.len() - kept));
        if full_blocks + writer::block_len(count + 1, size + marker) > room {
            break;
        }
        fitting = Some(kept);
        count += 1;
        size += len(next);
    }
    fitting
}
