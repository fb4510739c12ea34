//! The catalogue: every feature that can be emitted, with the places of its values and its meaning.
//!
//! Features in an event are in the order of the handlers here, and of the rows in each handler. Places and names are
//! those of the Go plugin, so that the events of both merge in Azul. The descriptions are our own.

mod documents;
mod executables;
mod files;
mod packages;
mod row;
mod verdicts;

use std::{collections::HashSet, fmt};

pub(super) use self::row::{FeatureKind, Handler, Holds, Row, Shape, Special};
use azul::event::FeatureDescriptor;

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

/// Name and description of the feature that counts the features cut off a large event. It is not a row.
const FEATURES_TRUNCATED: (&str, &str) = (
    "features_truncated",
    "Number of features that were left out at the end because the event would have been too large.",
);

/// Error for a name in the setting HANDLERS that no handler has.
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
    /// [`UnknownHandler`] with the first name that no handler has.
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

    /// Returns the names of the handlers, in the catalogue's order.
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

/// Returns every feature that an event may carry, each name once, for the registration of the plugin. If rows share a
/// name, the first row gives type and description. `features_truncated` is the last one.
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

#[cfg(test)]
mod tests {
    use std::{env, fs, path::PathBuf};

    use super::*;
    use crate::format::{DateFormat, FILE_FORMATS};

    /// Reads a table of facts from a directory beside the project. If it is not there, the function says so and returns
    /// `None`.
    fn facts(file: &str) -> Option<String> {
        let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/facts");
        let folder = env::var_os("AZUL_VT_FACTS").map_or_else(|| beside.into(), PathBuf::from);
        let path = folder.join(file);
        fs::read_to_string(&path)
            .inspect_err(|error| println!("skipped: no {} ({error})", path.display()))
            .ok()
    }

    /// Returns a row as it is written in `features.tsv`.
    fn spelled(order: usize, handler: &Handler, row: &Row) -> String {
        let holds = match row.holds {
            Holds::Text => "string",
            Holds::Texts => "list of strings",
            Holds::Integer => "integer",
            Holds::Float => "float",
            Holds::Boolean => "bool",
            Holds::Dictionary => "dictionary",
        };
        let path = row.path.join(".");
        let (mut list, mut item_label, mut special_name) = (String::new(), "", "");
        let mut vt_path = path.clone();
        let shape = match row.shape {
            Shape::Plain => "standard",
            Shape::InEach => "dictOfDict",
            Shape::InList { list: at, label } => {
                (list, item_label) = (at.join("."), label);
                // This is the only row whose key is not a key of its list's items.
                if !list.is_empty() && path != "ole.num_macros" {
                    vt_path = format!("{list}.{path}");
                }
                "listOfDict"
            }
            Shape::Special(special) => {
                special_name = match special {
                    Special::Tlsh => "tlsh",
                    Special::CountAsLabel => "count_as_label",
                    Special::CertIssuer => "cert_issuer",
                    Special::CertSubject => "cert_subject",
                    Special::Permissions => "permissions",
                    Special::UnixTime => "unix_time",
                    Special::VersionInfo => "version_info",
                    Special::ExternalAssemblies => "external_assemblies",
                };
                "special"
            }
        };
        [
            handler.name,
            &if handler.on { order.to_string() } else { "-".to_owned() },
            handler.root,
            &vt_path,
            holds,
            shape,
            &list,
            item_label,
            match row.date {
                None => "",
                Some(DateFormat::Plain) => "YYYY-MM-DD hh:mm:ss",
                Some(DateFormat::Rfc2822) => "RFC 2822",
            },
            if row.keep_zero { "zero" } else { "" },
            row.feature,
            row.kind.name(),
            special_name,
        ]
        .join("\t")
    }

    #[test]
    fn the_catalogue_is_the_table_of_facts_row_by_row() {
        let ours: Vec<_> = HANDLERS
            .iter()
            .enumerate()
            .flat_map(|(order, handler)| handler.rows.iter().map(move |row| (order, handler, row)))
            .map(|(order, handler, row)| spelled(order, handler, row))
            .collect();
        assert_eq!(ours.len(), 387);
        let Some(table) = facts("features.tsv") else { return };
        let theirs: Vec<_> = table.lines().skip(1).collect();
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs);
        }
        assert_eq!(ours.len(), theirs.len());
    }

    #[test]
    fn the_file_formats_are_those_of_the_table_of_facts() {
        let Some(table) = facts("file-formats.tsv") else { return };
        let ours: Vec<_> =
            FILE_FORMATS.iter().map(|(name, format)| format!("{name}\t{format}")).collect();
        assert_eq!(ours, table.lines().skip(1).collect::<Vec<_>>());
    }

    #[test]
    fn handler_sets_keep_the_order_of_the_catalogue() {
        let names = |text| HandlerSet::parse(text).unwrap().names().collect::<Vec<_>>();
        assert_eq!(names("all").len(), 32);
        assert_eq!(names("default").len(), 17);
        assert_eq!(names(" "), names("default"));
        assert_eq!(names("all")[..17], names("default"));
        assert_eq!(names(" VbaInfo ,Common, Common,"), ["Common", "VbaInfo"]);
        assert_eq!(names("default"), HandlerSet::default().names().collect::<Vec<_>>());
    }

    #[test]
    fn an_unknown_handler_is_named_and_so_are_the_known_ones() {
        let error = HandlerSet::parse("Common,PEInfo").unwrap_err().to_string();
        assert!(error.starts_with("`PEInfo` is no handler"), "{error}");
        assert!(error.contains("PeInfo, ") && error.ends_with("VbaInfo"), "{error}");
        assert!(HandlerSet::parse("all,Common").is_err());
    }

    #[test]
    fn every_feature_is_registered_once_with_a_sentence() {
        let descriptors = descriptors();
        let find = |name: &str| descriptors.iter().find(|d| d.name == name).unwrap();
        for row in HANDLERS.iter().flat_map(|handler| handler.rows) {
            let first = find(row.feature);
            let two_types = ["entry_point", "min_date", "max_date"].contains(&row.feature);
            assert!(first.kind == row.kind.name() || two_types, "{}", row.feature);
        }
        for d in &descriptors {
            let sentence = d.desc.ends_with('.') && d.desc.len() > 12 && !d.desc.contains("  ");
            assert!(sentence && d.tags.is_empty(), "{d:?}");
            assert_eq!(descriptors.iter().filter(|other| other.name == d.name).count(), 1);
        }
        assert_eq!(find("entry_point").kind, "string");
        assert_eq!(find("min_date").kind, "datetime");
        assert_eq!(descriptors.last().unwrap().name, "features_truncated");
        assert_eq!(descriptors.last().unwrap().kind, "integer");
        assert_eq!(descriptors.first().unwrap().name, "tlsh");
    }
}
