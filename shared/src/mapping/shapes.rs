//! From the rows of a handler to features: finds the values, checks them, keeps the limits.

use std::borrow::Cow;

use super::{
    catalogue::{FeatureKind, Handler, Holds, Row, Shape},
    format::{self, ReadDate},
    json::{Kind, Value},
    special,
};
use crate::azul::event::Feature;

/// Features of one row.
const MAX_FEATURES_PER_ROW: usize = 1_000;
/// Features of one handler.
const MAX_FEATURES_PER_HANDLER: usize = 10_000;
/// Azul's index takes values and labels shorter than this, in bytes.
const MAX_VALUE_BYTES: usize = 32_766;

/// Collects features and counts what had to be left out.
#[derive(Debug, Default)]
pub(super) struct Sink {
    pub(super) features: Vec<Feature>,
    /// Values of the wrong kind, that do not parse, or too long.
    pub(super) bad_values: u64,
    row_end: usize,
    handler_end: usize,
}

impl Sink {
    /// No more features of this row are wanted.
    pub(super) fn is_full(&self) -> bool {
        self.features.len() >= self.row_end
    }

    pub(super) fn bad(&mut self) {
        self.bad_values += 1;
    }

    /// Adds a feature, unless the row has its share or the value is too long.
    pub(super) fn push(&mut self, row: &Row, value: Cow<'_, str>, label: &str) {
        if self.is_full() {
            return;
        }
        if value.len() >= MAX_VALUE_BYTES || label.len() >= MAX_VALUE_BYTES {
            return self.bad();
        }
        self.features.push(Feature {
            name: Cow::Borrowed(row.feature),
            value: value.into_owned(),
            kind: Cow::Borrowed(row.kind.name()),
            label: label.to_owned(),
            size: 0,
            offset: 0,
        });
    }
}

/// Emits all features of a handler, whose root is in `attributes` or `attributes` itself.
pub(super) fn emit(handler: &Handler, attributes: Value<'_>, sink: &mut Sink) {
    let root = match handler.root {
        "" => Some(attributes),
        key => attributes.get(key),
    };
    let Some(root) = root.filter(|root| !root.is_null()) else { return };
    let of_items = |row: &Row| matches!(row.shape, Shape::InList { list: [], .. });
    let wanted = if handler.rows.iter().any(of_items) { Kind::List } else { Kind::Object };
    if root.kind() != wanted {
        return sink.bad();
    }
    sink.handler_end = sink.features.len() + MAX_FEATURES_PER_HANDLER;
    for row in handler.rows {
        sink.row_end = sink.handler_end.min(sink.features.len() + MAX_FEATURES_PER_ROW);
        emit_row(row, root, sink);
    }
}

fn emit_row(row: &Row, root: Value<'_>, sink: &mut Sink) {
    match row.shape {
        Shape::Plain => {
            if let Some(value) = root.at(row.path) {
                emit_value(row, value, "", sink);
            }
        }
        Shape::InList { list, label } => {
            let Some(list) = root.at(list).filter(|list| !list.is_null()) else { return };
            if list.kind() != Kind::List {
                return sink.bad();
            }
            for item in list.items() {
                if sink.is_full() {
                    break;
                }
                if let Some(value) = member_of(item, row, sink) {
                    let label = item.get(label).map(text_of).unwrap_or_default();
                    emit_value(row, value, &label, sink);
                }
            }
        }
        Shape::InEach => {
            for (key, inner) in root.members() {
                if sink.is_full() {
                    break;
                }
                if let Some(value) = member_of(inner, row, sink) {
                    emit_value(row, value, &key, sink);
                }
            }
        }
        Shape::Special(special) => special::emit(special, row, root, sink),
    }
}

/// The row's value in one of many objects. What is no object there is a bad value.
fn member_of<'a>(inner: Value<'a>, row: &Row, sink: &mut Sink) -> Option<Value<'a>> {
    if !matches!(inner.kind(), Kind::Object | Kind::Null) {
        sink.bad();
    }
    inner.at(row.path)
}

/// Emits one value, or each of a list or dictionary.
fn emit_value(row: &Row, value: Value<'_>, label: &str, sink: &mut Sink) {
    if value.is_null() {
        return;
    }
    match (row.holds, value.kind()) {
        (Holds::Texts, Kind::List) => {
            for item in value.items() {
                if sink.is_full() {
                    break;
                }
                emit_scalar(row, item, label, sink);
            }
        }
        (Holds::Dictionary, Kind::Object) => {
            for (key, value) in value.members() {
                if sink.is_full() {
                    break;
                }
                sink.push(row, key, &text_of(value));
            }
        }
        (Holds::Texts | Holds::Dictionary, _) => sink.bad(),
        _ => emit_scalar(row, value, label, sink),
    }
}

fn emit_scalar(row: &Row, value: Value<'_>, label: &str, sink: &mut Sink) {
    match scalar_of(row, value) {
        Checked::Value(value) => sink.push(row, value, label),
        Checked::Nothing => {}
        Checked::Bad => sink.bad(),
    }
}

/// A value after its row's checks.
pub(super) enum Checked<'a> {
    Value(Cow<'a, str>),
    /// A zero that says nothing, or zeros in the place of a date.
    Nothing,
    Bad,
}

/// The text of a scalar as its row wants it.
pub(super) fn scalar_of<'a>(row: &Row, value: Value<'a>) -> Checked<'a> {
    let Some(text) = format::scalar(value) else { return Checked::Bad };
    if row.holds == Holds::Integer && !row.keep_zero && text == "0" {
        return Checked::Nothing;
    }
    let integer = row.holds == Holds::Integer || row.kind == FeatureKind::Integer;
    if integer && text.parse::<i64>().is_err() {
        return Checked::Bad;
    }
    let float = row.holds == Holds::Float || row.kind == FeatureKind::Float;
    if float && !text.parse::<f64>().is_ok_and(f64::is_finite) {
        return Checked::Bad;
    }
    match row.date.map(|date| format::date(&text, date)) {
        None => Checked::Value(text),
        Some(ReadDate::Date(date)) => Checked::Value(Cow::Owned(date)),
        Some(ReadDate::None) => Checked::Nothing,
        Some(ReadDate::Bad) => Checked::Bad,
    }
}

/// What a label says of a value: a scalar's text, a list's or object's JSON.
pub(super) fn text_of(value: Value<'_>) -> Cow<'_, str> {
    format::scalar(value).unwrap_or_else(|| Cow::Borrowed(value.raw()))
}
