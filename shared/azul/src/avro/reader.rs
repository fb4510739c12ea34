//! Reads events from Avro, field by field.

use super::input::{AvroError, Reader};
use crate::event::{
    Author, BinaryEntity, BinaryEvent, BinaryFlags, Datastream, DownloadEntity, DownloadEvent,
    Feature, FeatureDescriptor, ModelVersion, PathNode, PluginEntity, PluginEvent, Source,
    StatusEntity, StatusEvent, ZERO_TIME,
};

/// Reads a bulk message of model `binary`. Invalid UTF-8 in a string becomes U+FFFD.
///
/// # Errors
/// [`AvroError`] if `message` is not a bulk message of this model. No event is returned then.
pub fn decode_binary_bulk(message: &[u8]) -> Result<Vec<BinaryEvent>, AvroError> {
    decode_bulk(message, min_size::BINARY_EVENT, Reader::binary_event)
}

/// Reads a bulk message of model `download`, like [`decode_binary_bulk`].
///
/// # Errors
/// [`AvroError`] if `message` is not a bulk message of this model. No event is returned then.
pub fn decode_download_bulk(message: &[u8]) -> Result<Vec<DownloadEvent>, AvroError> {
    decode_bulk(message, min_size::DOWNLOAD_EVENT, Reader::download_event)
}

/// Reads a bulk message of model `status`, like [`decode_binary_bulk`].
///
/// # Errors
/// [`AvroError`] if `message` is not a bulk message of this model. No event is returned then.
pub fn decode_status_bulk(message: &[u8]) -> Result<Vec<StatusEvent>, AvroError> {
    decode_bulk(message, min_size::STATUS_EVENT, Reader::status_event)
}

/// Reads a bulk message of model `plugin`, like [`decode_binary_bulk`].
///
/// # Errors
/// [`AvroError`] if `message` is not a bulk message of this model. No event is returned then.
pub fn decode_plugin_bulk(message: &[u8]) -> Result<Vec<PluginEvent>, AvroError> {
    decode_bulk(message, min_size::PLUGIN_EVENT, Reader::plugin_event)
}

/// Fewest bytes of each type, without `file_format_legacy`. A string, map, array or long takes at least one byte, an
/// unsigned number or a double takes eight.
mod min_size {
    pub(super) const STRING: usize = 1;
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
    let mut reader = Reader::new(message);
    reader.layout = match reader.long()? {
        4 | 5 => ModelVersion::V5,
        6 => ModelVersion::V6,
        other => return Err(AvroError::Version(other)),
    };
    let events = reader.array(min_size, event)?;
    reader.end()?;
    Ok(events)
}

/// Readers of the models, field by field.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the smallest possible value: empty strings, maps and arrays, and numbers of 0, all of which are encoded
    /// as zeros.
    fn least<T>(read: impl Fn(&mut Reader<'static>) -> Result<T, AvroError>) -> usize {
        let mut reader = Reader::new(&[0; 200]);
        read(&mut reader).unwrap();
        reader.at()
    }

    #[test]
    fn the_least_sizes_are_those_of_empty_values() {
        assert_eq!(least(Reader::string), min_size::STRING);
        assert_eq!(least(Reader::path_node), min_size::PATH_NODE);
        assert_eq!(least(Reader::feature), min_size::FEATURE);
        assert_eq!(least(Reader::datastream), min_size::DATASTREAM);
        assert_eq!(least(Reader::descriptor), min_size::DESCRIPTOR);
        assert_eq!(least(Reader::binary_event), min_size::BINARY_EVENT);
        assert_eq!(least(Reader::download_event), min_size::DOWNLOAD_EVENT);
        assert_eq!(least(Reader::status_event), min_size::STATUS_EVENT);
        assert_eq!(least(Reader::plugin_event), min_size::PLUGIN_EVENT);
    }
}
