//! Fuzzes records: any line is a record or is refused. A record becomes the same event each time, and the Avro of the
//! event decodes to that event.

#![no_main]

use std::sync::OnceLock;

use azul_vt::{
    azul::{avro, event::ModelVersion},
    mapping::{Mapped, Mapper, Record},
    pipeline::assemble,
    settings::Settings,
};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;

static MAPPER: OnceLock<Mapper> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let Ok(record) = Record::parse(data) else { return };
    assert!(str::from_utf8(data).is_err() || record.text().as_bytes() == data);
    let mapper = MAPPER.get_or_init(|| {
        let settings = Settings::read(&|name| (name == "HANDLERS").then(|| "all".into())).unwrap();
        assemble::mapper(&settings, true).unwrap()
    });
    let now = Timestamp::UNIX_EPOCH;
    let mapped = mapper.map_feed(&record, now);
    assert_eq!(mapped, mapper.map_feed(&record, now));
    let Mapped::Event { event, .. } = mapped else { return };
    let encoded = avro::fit(*event, ModelVersion::V6, 1 << 20).unwrap();
    let mut bulk = Vec::new();
    avro::bulk(ModelVersion::V6, &[&encoded.bytes], &mut bulk);
    let decoded = avro::decode_binary_bulk(&bulk).unwrap();
    assert_eq!(decoded.len(), 1);
    assert_eq!(Some(decoded[0].entity.sha256.as_str()), record.sha256().as_deref());
});
