//! `vt select`: the download requests that rules make of records, without posting or remembering them.

use azul_vt::{
    bundle::Line,
    mapping::Mapped,
    pipeline::{assemble, prepare},
    selection::Selector,
};
use jiff::Timestamp;

use crate::{
    cli::SelectArgs,
    failure::Failure,
    lines::{self, Shape},
    rules, settings,
};

/// Prints the requests of a file's records.
pub(crate) fn run(args: &SelectArgs) -> Result<(), Failure> {
    let mut settings = settings::read()?;
    settings.model_version = args.model_version.unwrap_or(settings.model_version);
    let root = args.rules.as_ref().unwrap_or(&settings.rules_root);
    let rules = rules::load(root, settings.rules_lenient)?;
    let selector = Selector::new(rules, assemble::selector_options(&settings));
    // The mapper has no age limit, because rules are tried on whatever records are at hand.
    let mapper = assemble::mapper(&settings, true)
        .map_err(|error| Failure::Usage(anyhow::anyhow!("HANDLERS: {error}")))?;
    let now = args.now.unwrap_or_else(Timestamp::now);
    let source = lines::Source::open(&args.file, args.threads, &settings)?.documents_as_lines()?;
    source.print(|line: &Line, bytes| {
        let number = line.number();
        let record = match prepare::read(line, bytes) {
            Ok(record) => record,
            Err(reason) => return Shape::rejected(number, &reason).to_line(),
        };
        match mapper.map_feed(&record, now) {
            Mapped::Filtered(reason) => Shape::filtered(number, &reason).to_line(),
            Mapped::Rejected(reason) => Shape::rejected(number, &reason).to_line(),
            Mapped::Event { event, .. } => {
                let requests = prepare::select(&selector, &record, &event, now);
                Shape::events(number, &requests).to_line()
            }
        }
    })
}
