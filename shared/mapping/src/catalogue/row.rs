//! The vocabulary of the catalogue: the places of a row's values, their form, and the features made of them.

use crate::format::DateFormat;

/// One part of a file object and the features that are made of it.
#[derive(Debug)]
pub(crate) struct Handler {
    /// Name of the handler in the setting HANDLERS.
    pub(crate) name: &'static str,
    /// Key of the part under `attributes`; empty for `attributes` itself.
    pub(crate) root: &'static str,
    /// Whether the handler is on by default.
    pub(crate) on: bool,
    /// Rows in the order in which their features are emitted.
    pub(crate) rows: &'static [Row],
}

impl Handler {
    pub(super) const fn on(name: &'static str, root: &'static str, rows: &'static [Row]) -> Self {
        Self { name, root, on: true, rows }
    }

    pub(super) const fn off(name: &'static str, root: &'static str, rows: &'static [Row]) -> Self {
        Self { name, root, on: false, rows }
    }
}

/// A feature and the place of its values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Path of the value under the handler's root, or a key in each item or inner object.
    pub(crate) path: &'static [&'static str],
    /// Form of the value in VirusTotal's record.
    pub(crate) holds: Holds,
    /// Way to the values.
    pub(crate) shape: Shape,
    /// Format of a date; `None` if the value is not a date.
    pub(crate) date: Option<DateFormat>,
    /// Whether the integer 0 gives a feature.
    pub(crate) keep_zero: bool,
    /// Feature name.
    pub(crate) feature: &'static str,
    /// Type of the feature.
    pub(crate) kind: FeatureKind,
    /// One sentence for analysts.
    pub(crate) desc: &'static str,
}

/// Forms of values in VirusTotal's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    Text,
    Texts,
    Integer,
    Float,
    Boolean,
    /// An object whose keys become values and whose values become labels.
    Dictionary,
}

/// Ways to the values of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The value is at the path under the root.
    Plain,
    /// The values are in the objects of a list, labelled by another key of the same object.
    InList {
        /// Path of the list under the root; empty if the root is the list.
        list: &'static [&'static str],
        /// Key of the value that labels an item's values.
        label: &'static str,
    },
    /// The values are in the objects that the root holds, labelled by the key of the object.
    InEach,
    /// The row has a reader of its own.
    Special(Special),
}

/// Rows that have a reader of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// A TLSH hash; shorter texts stand for "none".
    Tlsh,
    /// The key becomes the value, and the count becomes its label.
    CountAsLabel,
    /// The certificate's issuer as `k=v` pairs.
    CertIssuer,
    /// The certificate's subject as `k=v` pairs.
    CertSubject,
    /// Android permissions labelled by their kind.
    Permissions,
    /// A time in seconds since 1970.
    UnixTime,
    /// A version as `major.minor.build.revision`.
    VersionInfo,
    /// Names of assemblies labelled by their versions.
    ExternalAssemblies,
}

/// Types of features that the catalogue has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FeatureKind {
    Text,
    Integer,
    Float,
    Datetime,
}

impl FeatureKind {
    /// Returns the name of the type in Azul.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Datetime => "datetime",
        }
    }
}

const fn row(
    path: &'static [&'static str],
    holds: Holds,
    kind: FeatureKind,
    feature: &'static str,
    desc: &'static str,
) -> Row {
    Row { path, holds, shape: Shape::Plain, date: None, keep_zero: false, feature, kind, desc }
}

/// Returns a row for a string.
pub(super) const fn text(
    path: &'static [&'static str],
    feature: &'static str,
    desc: &'static str,
) -> Row {
    row(path, Holds::Text, FeatureKind::Text, feature, desc)
}

/// Returns a row for a list of strings.
pub(super) const fn texts(
    path: &'static [&'static str],
    feature: &'static str,
    desc: &'static str,
) -> Row {
    row(path, Holds::Texts, FeatureKind::Text, feature, desc)
}

/// Returns a row for a whole number; 0 gives no feature.
pub(super) const fn integer(
    path: &'static [&'static str],
    feature: &'static str,
    desc: &'static str,
) -> Row {
    row(path, Holds::Integer, FeatureKind::Integer, feature, desc)
}

/// Returns a row for a number.
pub(super) const fn float(
    path: &'static [&'static str],
    feature: &'static str,
    desc: &'static str,
) -> Row {
    row(path, Holds::Float, FeatureKind::Float, feature, desc)
}

/// Returns a row for a boolean, which is a string in Azul.
pub(super) const fn boolean(
    path: &'static [&'static str],
    feature: &'static str,
    desc: &'static str,
) -> Row {
    row(path, Holds::Boolean, FeatureKind::Text, feature, desc)
}

/// Returns a row for an object whose keys become values and whose values become labels.
pub(super) const fn dictionary(
    path: &'static [&'static str],
    feature: &'static str,
    desc: &'static str,
) -> Row {
    row(path, Holds::Dictionary, FeatureKind::Text, feature, desc)
}

/// Returns a row for a string that holds a date.
pub(super) const fn date(
    path: &'static [&'static str],
    feature: &'static str,
    desc: &'static str,
) -> Row {
    let mut row = row(path, Holds::Text, FeatureKind::Datetime, feature, desc);
    row.date = Some(DateFormat::Plain);
    row
}

impl Row {
    /// Returns the row for a key in each object of `list`. The value of the key `label` labels the others.
    pub(super) const fn in_list(
        mut self,
        list: &'static [&'static str],
        label: &'static str,
    ) -> Self {
        self.shape = Shape::InList { list, label };
        self
    }

    /// Returns the row for a key in each object under the root. The key of the object labels the values.
    pub(super) const fn in_each(mut self) -> Self {
        self.shape = Shape::InEach;
        self
    }

    pub(super) const fn special(mut self, special: Special) -> Self {
        self.shape = Shape::Special(special);
        self
    }

    pub(super) const fn mail_date(mut self) -> Self {
        self.date = Some(DateFormat::Rfc2822);
        self.kind = FeatureKind::Datetime;
        self
    }

    pub(super) const fn keep_zero(mut self) -> Self {
        self.keep_zero = true;
        self
    }

    pub(super) const fn emits(mut self, kind: FeatureKind) -> Self {
        self.kind = kind;
        self
    }
}
