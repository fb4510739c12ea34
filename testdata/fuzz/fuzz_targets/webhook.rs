//! Fuzzes webhooks: any body and any event of Lambda is parsed or refused.

#![no_main]

use azul_vt::{
    azul::{
        event::{BinaryEvent, DownloadEvent},
        incoming::{from_avro, from_json},
    },
    lambda,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    drop(from_json::<BinaryEvent>(data));
    drop(from_json::<DownloadEvent>(data));
    drop(from_avro::<BinaryEvent>(data));
    drop(from_avro::<DownloadEvent>(data));
    if let Ok(event) = serde_json::from_slice(data)
        && let Ok(Some(request)) = lambda::webhook(&event)
    {
        drop(request);
    }
});
