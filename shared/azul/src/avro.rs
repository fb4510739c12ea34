//! The events in Avro, as the dispatcher takes and gives them: plain Avro binary of a bulk record, with
//! no container and no header. A bulk record is the model version, then an array of events.
//!
//! An own writer and reader, since the layout is fixed and the general crates build a value tree of
//! every event. They know the layouts of the model versions 5 and 6, which differ only in
//! `file_format_legacy`. Version 4 is read like 5.
//!
//! Nothing here fails on what we write ourselves; the reader takes bytes from outside and answers with
//! an [`AvroError`] to whatever is not such a message.

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

/// Items in a block of an array or a map, as Azul's own writer has it: a reader with a limit for the
/// items of a block takes ours too.
const BLOCK_ITEMS: usize = 100;
