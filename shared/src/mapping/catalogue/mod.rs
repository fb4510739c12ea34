//! The catalogue: every feature that can be emitted, where its values come from and what it means.
//!
//! The order of handlers here, and of rows in a handler, is the order of features in events. Places
//! and names are the Go plugin's, so that events of both merge in Azul; the descriptions are ours.

mod documents;
mod executables;
mod files;
mod packages;
mod row;
mod verdicts;

use std::{collections::HashSet, fmt};

pub(super) use self::row::{FeatureKind, Handler, Holds, Row, Shape, Special};
use crate::azul::event::FeatureDescriptor;

/// All handlers. Those that are on by default come first.
pub(super) static HANDLERS: [&Handler; 32] = [
    &files::COMMON,
    &verdicts::SANDBOX_VERDICTS,
    &verdicts::AV_RESULTS,
    &verdicts::AV_RESULTS_STATS,
    &executables::AUTHENTIHASH,
    &packages::BUNDLE_INFO,
    &verdicts::CROWDSOURCED_IDS_STATS,
    &packages::PASSWORD_INFO,
    &files::SIGNATURE_INFO,
    &verdicts::SIGMA_ANALYSIS_STATS,
    &packages::ISOIMAGE_INFO,
    &packages::DEB_INFO,
    &files::EXIF_TOOL,
    &packages::ANDROGUARD,
    &executables::ELF_INFO,
    &executables::PE_INFO,
    &files::KNOWN_DISTRIBUTORS,
    &executables::CLASS_INFO,
    &executables::DETECTITEASY,
    &executables::DOT_NET_ASSEMBLY,
    &executables::DOT_NET_GUIDS,
    &packages::JAR_INFO,
    &files::LNK_INFO,
    &documents::OFFICE_INFO,
    &documents::PDF_INFO,
    &documents::POWERSHELL_INFO,
    &documents::RTF_INFO,
    &verdicts::SIGMA_ANALYSIS_RESULTS,
    &verdicts::SNORT,
    &verdicts::SURICATA,
    &documents::SWF_INFO,
    &documents::VBA_INFO,
];

/// Not a row: says how many features an event lost because it was too large.
const FEATURES_TRUNCATED: (&str, &str) = (
    "features_truncated",
    "Number of features that were left out at the end because the event would have been too large.",
);

/// A name in HANDLERS that no handler has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is no handler; known are default, all or a list of: {}", known())]
pub struct UnknownHandler {
    /// The name as written.
    pub name: String,
}

fn known() -> String {
    HANDLERS.map(|handler| handler.name).join(", ")
}

/// The handlers that emit features, always in the catalogue's order.
#[derive(Clone)]
pub struct HandlerSet(Vec<&'static Handler>);

impl HandlerSet {
    /// Reads `default`, `all`, or names separated by commas, in any order. Blank text is `default`.
    ///
    /// # Errors
    /// The first name that no handler has.
    pub fn parse(text: &str) -> Result<Self, UnknownHandler> {
        let names: Vec<_> = text.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
        match names.as_slice() {
            [] | ["default"] => return Ok(Self::of(|handler| handler.on)),
            ["all"] => return Ok(Self::of(|_| true)),
            _ => {}
        }
        let known = |name: &&str| HANDLERS.iter().any(|handler| handler.name == *name);
        if let Some(name) = names.iter().find(|name| !known(name)) {
            return Err(UnknownHandler { name: (*name).to_owned() });
        }
        Ok(Self::of(|handler| names.contains(&handler.name)))
    }

    fn of(wanted: impl Fn(&Handler) -> bool) -> Self {
        Self(HANDLERS.into_iter().filter(|handler| wanted(handler)).collect())
    }

    pub(super) fn handlers(&self) -> impl Iterator<Item = &'static Handler> {
        self.0.iter().copied()
    }

    /// The names of the handlers, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.handlers().map(|handler| handler.name)
    }
}

impl Default for HandlerSet {
    fn default() -> Self {
        Self::of(|handler| handler.on)
    }
}

impl fmt::Debug for HandlerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Every feature that an event may carry, each name once, for the plugin's registration: of rows
/// that share a name the first one's type and description; then `features_truncated`.
pub fn descriptors() -> Vec<FeatureDescriptor> {
    let mut seen = HashSet::new();
    let rows = HANDLERS.iter().flat_map(|handler| handler.rows);
    let of_rows = rows.map(|row| (row.feature, row.kind, row.desc));
    let (truncated, desc) = FEATURES_TRUNCATED;
    of_rows
        .chain([(truncated, FeatureKind::Integer, desc)])
        .filter(|(name, ..)| seen.insert(*name))
        .map(|(name, kind, desc)| FeatureDescriptor {
            name: name.into(),
            kind: kind.name().into(),
            desc: desc.into(),
            tags: Vec::new(),
        })
        .collect()
}
