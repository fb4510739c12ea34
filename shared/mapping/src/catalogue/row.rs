//! The vocabulary of the catalogue: how a row says what it takes, from where, and what it makes.

use crate::format::DateFormat;

/// One part of a file object and the features that are made of it.
#[derive(Debug)]
pub(crate) struct Handler {
    /// What the HANDLERS setting calls it.
    pub(crate) name: &'static str,
    /// Key under `attributes`; "" for `attributes` itself.
    pub(crate) root: &'static str,
    /// Is it on unless HANDLERS says otherwise?
    pub(crate) on: bool,
    /// In the order in which their features are emitted.
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

/// One feature from one place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Where the value stands: under the handler's root, or one key in each item or inner object.
    pub(crate) path: &'static [&'static str],
    /// What VirusTotal keeps there.
    pub(crate) holds: Holds,
    /// How the values are reached.
    pub(crate) shape: Shape,
    /// How a date is written there.
    pub(crate) date: Option<DateFormat>,
    /// Is the integer 0 worth a feature?
    pub(crate) keep_zero: bool,
    /// Feature name.
    pub(crate) feature: &'static str,
    /// Type of the feature.
    pub(crate) kind: FeatureKind,
    /// One sentence for analysts.
    pub(crate) desc: &'static str,
}

/// What VirusTotal keeps in a place.
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

/// How the values of a row are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// At the path under the root.
    Plain,
    /// In each object of a list, labelled by another key of that object.
    InList {
        /// Where the list stands under the root; empty where the root is the list.
        list: &'static [&'static str],
        /// The key that labels an item's values.
        label: &'static str,
    },
    /// In each object that the root holds, labelled by its key.
    InEach,
    /// In a way of its own.
    Special(Special),
}

/// Ways of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// A TLSH hash; shorter texts stand for "none".
    Tlsh,
    /// The key is the value and the count its label.
    CountAsLabel,
    /// The certificate's issuer as `k=v` pairs.
    CertIssuer,
    /// The certificate's subject as `k=v` pairs.
    CertSubject,
    /// Android permissions labelled by their kind.
    Permissions,
    /// Seconds since 1970.
    UnixTime,
    /// `major.minor.build.revision`.
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
    /// As Azul spells it.
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

/// A row on a string.
pub(super) const fn text(
    path: &'static [&'static str],
    feature: &'static str,
    desc: &'static str,
) -> Row {
    row(path, Holds::Text, FeatureKind::Text, feature, desc)
}

/// A row on a list of strings.
pub(super) const fn texts(
    path: &'static [&'static str],
    feature: &'static str,
    desc: &'static str,
) -> Row {
    row(path, Holds::Texts, FeatureKind::Text, feature, desc)
}

/// A row on a whole number; 0 gives no feature.
pub(super) const fn integer(
    path: &'static [&'static str],
    feature: &'static str,
    desc: &'static str,
) -> Row {
    row(path, Holds::Integer, FeatureKind::Integer, feature, desc)
}

/// A row on a number.
pub(super) const fn float(
    path: &'static [&'static str],
    feature: &'static str,
    desc: &'static str,
) -> Row {
    row(path, Holds::Float, FeatureKind::Float, feature, desc)
}

/// A row on a boolean, which Azul has as a string.
pub(super) const fn boolean(
    path: &'static [&'static str],
    feature: &'static str,
    desc: &'static str,
) -> Row {
    row(path, Holds::Boolean, FeatureKind::Text, feature, desc)
}

/// A row on an object whose keys become values and whose values become labels.
pub(super) const fn dictionary(
    path: &'static [&'static str],
    feature: &'static str,
    desc: &'static str,
) -> Row {
    row(path, Holds::Dictionary, FeatureKind::Text, feature, desc)
}

/// A row on a string that holds a date.
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
    /// The path is a key in each object of `list`, whose key `label` labels the values.
    pub(super) const fn in_list(
        mut self,
        list: &'static [&'static str],
        label: &'static str,
    ) -> Self {
        self.shape = Shape::InList { list, label };
        self
    }

    /// The path is a key in each object under the root, whose own key labels the values.
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
