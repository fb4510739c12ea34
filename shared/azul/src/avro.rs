//! The events in Avro, as the dispatcher takes and gives them: the plain Avro binary of a bulk record, without
//! container and header. A bulk record is the model version and an array of events.
//!
//! This crate has a writer and a reader of its own, because the layout is fixed and the general crates build a value
//! tree of every event. Both know the layouts of the model versions 5 and 6, which differ only in `file_format_legacy`.
//! Version 4 is read like version 5.
//!
//! Encoding never fails. The reader takes bytes from outside and returns an [`AvroError`] for anything that is not such
//! a message.

mod fit;
mod input;
mod reader;
mod writer;

pub use fit::{Encoded, FEATURES_TRUNCATED, TooLarge, cut_to_fit, fit};
pub use input::AvroError;
pub use reader::{
    decode_binary_bulk, decode_download_bulk, decode_plugin_bulk, decode_status_bulk,
};
pub use writer::{bulk, encode_binary, encode_download, encode_plugin, encode_status};

/// Most items in a block of an array or a map. Azul's own writer uses the same number, so a reader that limits the
/// items of a block accepts our blocks.
const BLOCK_ITEMS: usize = 100;
