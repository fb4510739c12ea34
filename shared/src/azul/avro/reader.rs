//! Bytes to values. The bytes come from outside: every length is checked against what is left before
//! anything is taken or reserved, counts are bounded by what their items take at least, and nothing
//! calls itself.

use jiff::Timestamp;
use thiserror::Error;

use super::BLOCK_ITEMS;
use crate::azul::event::{
    Author, BinaryEntity, BinaryEvent, BinaryFlags, Datastream, DownloadEntity, DownloadEvent,
    Feature, FeatureDescriptor, JsonObject, ModelVersion, PathNode, PluginEntity, PluginEvent,
    Source, StatusEntity, StatusEvent, StringMap, ZERO_TIME,
};

/// Why bytes are no bulk message of Azul's. `at` counts bytes from the start of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AvroError {
    /// The message ends in the middle of a value.
    #[error("the message ends at byte {at}, in the middle of a value")]
    Truncated {
        /// Where the value starts.
        at: usize,
    },
    /// A number of more than 64 bits.
    #[error("the number at byte {at} has more than 64 bits")]
    Long {
        /// Where it starts.
        at: usize,
    },
    /// A length that is negative or longer than what is left.
    #[error("the length {length} at byte {at} is negative or more than is left")]
    Length {
        /// Where it stands.
        at: usize,
        /// What it says.
        length: i64,
    },
    /// A block with more items than its bytes can hold.
    #[error("the block at byte {at} has {count} items, more than its bytes can hold")]
    Count {
        /// Where the block starts.
        at: usize,
        /// Its items, as it says.
        count: u64,
    },
    /// A block whose items do not end where it says.
    #[error("the items of a block end at byte {at}, not where the block says")]
    BlockSize {
        /// Where they end.
        at: usize,
    },
    /// A truth value that is neither 0 nor 1.
    #[error("the truth value at byte {at} is neither 0 nor 1")]
    Boolean {
        /// Where it stands.
        at: usize,
    },
    /// A time out of the years −9999 to 9999.
    #[error("the time at byte {at} is out of range")]
    Time {
        /// Where it stands.
        at: usize,
    },
    /// A model version with another layout.
    #[error("model version {0} is not known here; 4, 5 and 6 are")]
    Version(i64),
    /// More bytes after the last event.
    #[error("{0} bytes follow the last event")]
    Trailing(usize),
}

/// Reads a bulk message of model `binary`. Strings that are no UTF-8 have the bad bytes replaced by
/// U+FFFD.
///
/// # Errors
/// [`AvroError`] if it is no such message; then nothing of it is given.
pub fn decode_binary_bulk(message: &[u8]) -> Result<Vec<BinaryEvent>, AvroError> {
    decode_bulk(message, min_size::BINARY_EVENT, Reader::binary_event)
}

/// Reads a bulk message of model `download`, like [`decode_binary_bulk`].
///
/// # Errors
/// [`AvroError`] if it is no such message; then nothing of it is given.
pub fn decode_download_bulk(message: &[u8]) -> Result<Vec<DownloadEvent>, AvroError> {
    decode_bulk(message, min_size::DOWNLOAD_EVENT, Reader::download_event)
}

/// Reads a bulk message of model `status`, like [`decode_binary_bulk`].
///
/// # Errors
/// [`AvroError`] if it is no such message; then nothing of it is given.
pub fn decode_status_bulk(message: &[u8]) -> Result<Vec<StatusEvent>, AvroError> {
    decode_bulk(message, min_size::STATUS_EVENT, Reader::status_event)
}

/// Reads a bulk message of model `plugin`, like [`decode_binary_bulk`].
///
/// # Errors
/// [`AvroError`] if it is no such message; then nothing of it is given.
pub fn decode_plugin_bulk(message: &[u8]) -> Result<Vec<PluginEvent>, AvroError> {
    decode_bulk(message, min_size::PLUGIN_EVENT, Reader::plugin_event)
}

/// How many bytes a value takes at least (without `file_format_legacy`): a string, map, array or long
/// one, an unsigned or double eight.
mod min_size {
    pub(super) const STRING: usize = 1;
    pub(super) const ENTRY: usize = 2;
    pub(super) const PATH_NODE: usize = 19;
    pub(super) const FEATURE: usize = 20;
    pub(super) const DATASTREAM: usize = 21;
    pub(super) const DESCRIPTOR: usize = 4;
    const HEAD: usize = 7;
    const SOURCE: usize = 6;
    const BINARY_ENTITY: usize = 21;
    pub(super) const BINARY_EVENT: usize = HEAD + SOURCE + BINARY_ENTITY + 9;
    pub(super) const DOWNLOAD_EVENT: usize = HEAD + SOURCE + 8;
    pub(super) const STATUS_EVENT: usize = HEAD + BINARY_EVENT + 12;
    pub(super) const PLUGIN_EVENT: usize = HEAD + 8;
}

fn decode_bulk<'m, T>(
    message: &'m [u8],
    min_size: usize,
    event: impl Fn(&mut Reader<'m>) -> Result<T, AvroError>,
) -> Result<Vec<T>, AvroError> {
    let mut reader = Reader { rest: message, length: message.len(), layout: ModelVersion::V6 };
    reader.layout = match reader.long()? {
        4 | 5 => ModelVersion::V5,
        6 => ModelVersion::V6,
        other => return Err(AvroError::Version(other)),
    };
    let events = reader.array(min_size, event)?;
    if reader.rest.is_empty() { Ok(events) } else { Err(AvroError::Trailing(reader.rest.len())) }
}

struct Reader<'m> {
    rest: &'m [u8],
    length: usize,
    layout: ModelVersion,
}

/// The models, field by field.
impl Reader<'_> {
    fn binary_event(&mut self) -> Result<BinaryEvent, AvroError> {
        Ok(BinaryEvent {
            model_version: self.long()?,
            kafka_key: self.string()?,
            timestamp: self.time()?,
            author: self.author()?,
            source: self.source()?,
            entity: self.binary_entity()?,
            action: self.string()?,
            dequeued: self.string()?,
            retries: self.long()?,
            flags: BinaryFlags {
                bypass_cache: self.boolean()?,
                expedite: self.boolean()?,
                retry: self.boolean()?,
            },
            track_source_references: self.string()?,
            track_links: self.array(min_size::STRING, Self::string)?,
            track_authors: self.array(min_size::STRING, Self::string)?,
        })
    }

    fn download_event(&mut self) -> Result<DownloadEvent, AvroError> {
        Ok(DownloadEvent {
            model_version: self.long()?,
            kafka_key: self.string()?,
            timestamp: self.time()?,
            author: self.author()?,
            source: self.source()?,
            action: self.string()?,
            entity: DownloadEntity {
                hash: self.string()?,
                direct_url: self.string()?,
                direct_expiry: Some(self.time()?).filter(|time| *time != ZERO_TIME),
                pcap: self.boolean()?,
                category: self.string()?,
                category_quota: self.long()?,
                metadata: self.json()?,
            },
        })
    }

    fn status_event(&mut self) -> Result<StatusEvent, AvroError> {
        Ok(StatusEvent {
            model_version: self.long()?,
            kafka_key: self.string()?,
            timestamp: self.time()?,
            author: self.author()?,
            entity: StatusEntity {
                input: self.binary_event()?,
                status: self.string()?,
                runtime: self.double()?,
                error: self.string()?,
                message: self.string()?,
                results: self.array(min_size::BINARY_EVENT, Self::binary_event)?,
            },
        })
    }

    fn plugin_event(&mut self) -> Result<PluginEvent, AvroError> {
        Ok(PluginEvent {
            model_version: self.long()?,
            kafka_key: self.string()?,
            timestamp: self.time()?,
            author: self.author()?,
            entity: PluginEntity {
                name: self.string()?,
                version: self.string()?,
                category: self.string()?,
                contact: self.string()?,
                description: self.string()?,
                features: self.array(min_size::DESCRIPTOR, Self::descriptor)?,
                security: self.string()?,
                config: self.map()?,
            },
        })
    }

    fn author(&mut self) -> Result<Author, AvroError> {
        Ok(Author {
            name: self.string()?,
            version: self.string()?,
            category: self.string()?,
            security: self.string()?,
        })
    }

    fn source(&mut self) -> Result<Source, AvroError> {
        Ok(Source {
            name: self.string()?,
            references: self.map()?,
            security: self.string()?,
            path: self.array(min_size::PATH_NODE, Self::path_node)?,
            timestamp: self.time()?,
            settings: self.map()?,
        })
    }

    fn path_node(&mut self) -> Result<PathNode, AvroError> {
        Ok(PathNode {
            author: self.author()?,
            action: self.string()?,
            sha256: self.string()?,
            relationship: self.map()?,
            timestamp: self.time()?,
            file_format_legacy: self.legacy_format()?,
            file_format: self.string()?,
            size: self.unsigned()?,
            filename: self.string()?,
            language: self.string()?,
        })
    }

    fn binary_entity(&mut self) -> Result<BinaryEntity, AvroError> {
        Ok(BinaryEntity {
            sha256: self.string()?,
            sha512: self.string()?,
            sha1: self.string()?,
            md5: self.string()?,
            ssdeep: self.string()?,
            tlsh: self.string()?,
            size: self.unsigned()?,
            mime: self.string()?,
            magic: self.string()?,
            file_format_legacy: self.legacy_format()?,
            file_format: self.string()?,
            file_extension: self.string()?,
            info: self.json()?,
            features: self.array(min_size::FEATURE, Self::feature)?,
            datastreams: self.array(min_size::DATASTREAM, Self::datastream)?,
        })
    }

    fn feature(&mut self) -> Result<Feature, AvroError> {
        Ok(Feature {
            name: self.string()?.into(),
            value: self.string()?,
            kind: self.string()?.into(),
            label: self.string()?,
            size: self.unsigned()?,
            offset: self.unsigned()?,
        })
    }

    fn datastream(&mut self) -> Result<Datastream, AvroError> {
        Ok(Datastream {
            identify_version: self.long()?,
            label: self.string()?,
            size: self.unsigned()?,
            sha512: self.string()?,
            sha256: self.string()?,
            sha1: self.string()?,
            md5: self.string()?,
            ssdeep: self.string()?,
            tlsh: self.string()?,
            mime: self.string()?,
            magic: self.string()?,
            file_format_legacy: self.legacy_format()?,
            file_format: self.string()?,
            file_extension: self.string()?,
            language: self.string()?,
        })
    }

    fn descriptor(&mut self) -> Result<FeatureDescriptor, AvroError> {
        Ok(FeatureDescriptor {
            name: self.string()?,
            kind: self.string()?,
            desc: self.string()?,
            tags: self.array(min_size::STRING, Self::string)?,
        })
    }

    fn legacy_format(&mut self) -> Result<String, AvroError> {
        if self.layout.has_legacy_format() { self.string() } else { Ok(String::new()) }
    }
}

/// Avro's own types.
impl<'m> Reader<'m> {
    fn at(&self) -> usize {
        self.length - self.rest.len()
    }

    fn byte(&mut self) -> Result<u8, AvroError> {
        let (&byte, rest) =
            self.rest.split_first().ok_or(AvroError::Truncated { at: self.at() })?;
        self.rest = rest;
        Ok(byte)
    }

    fn long(&mut self) -> Result<i64, AvroError> {
        let at = self.at();
        let mut bits: u64 = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let low = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && low > 1 {
                break;
            }
            bits |= low << shift;
            if byte & 0x80 == 0 {
                return Ok((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed());
            }
        }
        Err(AvroError::Long { at })
    }

    fn length(&mut self) -> Result<usize, AvroError> {
        let at = self.at();
        let length = self.long()?;
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= self.rest.len())
            .ok_or(AvroError::Length { at, length })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], AvroError> {
        let (&bytes, rest) =
            self.rest.split_first_chunk().ok_or(AvroError::Truncated { at: self.at() })?;
        self.rest = rest;
        Ok(bytes)
    }

    fn bytes(&mut self) -> Result<&'m [u8], AvroError> {
        let at = self.at();
        let length = self.length()?;
        let (bytes, rest) =
            self.rest.split_at_checked(length).ok_or(AvroError::Truncated { at })?;
        self.rest = rest;
        Ok(bytes)
    }

    fn string(&mut self) -> Result<String, AvroError> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    fn json(&mut self) -> Result<Option<JsonObject>, AvroError> {
        Ok(serde_json::from_slice(self.bytes()?).ok())
    }

    fn unsigned(&mut self) -> Result<u64, AvroError> {
        self.take().map(u64::from_be_bytes)
    }

    fn double(&mut self) -> Result<f64, AvroError> {
        self.take().map(f64::from_le_bytes)
    }

    fn boolean(&mut self) -> Result<bool, AvroError> {
        let at = self.at();
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(AvroError::Boolean { at }),
        }
    }

    fn time(&mut self) -> Result<Timestamp, AvroError> {
        let at = self.at();
        Timestamp::from_microsecond(self.long()?).map_err(|_| AvroError::Time { at })
    }

    fn array<T>(
        &mut self,
        min_size: usize,
        item: impl Fn(&mut Self) -> Result<T, AvroError>,
    ) -> Result<Vec<T>, AvroError> {
        let mut items = Vec::new();
        self.blocks(min_size, |reader, left| {
            if items.len() == items.capacity() {
                // What a block says of itself is trusted for one block of the usual size, not more.
                items.reserve(left.min(BLOCK_ITEMS));
            }
            items.push(item(reader)?);
            Ok(())
        })?;
        Ok(items)
    }

    fn map(&mut self) -> Result<StringMap, AvroError> {
        let mut entries = StringMap::new();
        self.blocks(min_size::ENTRY, |reader, _| {
            let key = reader.string()?;
            entries.insert(key, reader.string()?);
            Ok(())
        })?;
        Ok(entries)
    }

    /// Both framings: a count, or a negative count and a size in bytes. Calls `item` for each item, with
    /// the number of those left in its block.
    fn blocks(
        &mut self,
        min_size: usize,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), AvroError>,
    ) -> Result<(), AvroError> {
        loop {
            let at = self.at();
            let signed = self.long()?;
            if signed == 0 {
                return Ok(());
            }
            let count = signed.unsigned_abs();
            let (size, end) = if signed < 0 {
                let size = self.length()?;
                (size, Some(self.at() + size))
            } else {
                (self.rest.len(), None)
            };
            let left = usize::try_from(count)
                .ok()
                .filter(|count| *count <= size / min_size)
                .ok_or(AvroError::Count { at, count })?;
            for left in (1..=left).rev() {
                item(self, left)?;
            }
            if end.is_some_and(|end| end != self.at()) {
                return Err(AvroError::BlockSize { at: self.at() });
            }
        }
    }
}
