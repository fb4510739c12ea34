//! Makes features from the rows of a handler: finds the values, checks them, and keeps the limits.

use std::borrow::Cow;

use super::{
    catalogue::{FeatureKind, Handler, Holds, Row, Shape},
    format::{self, ReadDate},
    special,
};
use azul::{event::Feature, limits::MAX_TEXT_BYTES};
use json::{Kind, Value};

/// Most features of one row.
const MAX_FEATURES_PER_ROW: usize = 1_000;
/// Most features of one handler.
const MAX_FEATURES_PER_HANDLER: usize = 10_000;
/// Size that values and labels must stay below, in bytes, because of Azul's index.
const MAX_VALUE_BYTES: usize = MAX_TEXT_BYTES;

/// Collects features and counts the values that were left out.
#[derive(Debug, Default)]
pub(super) struct Sink {
    pub(super) features: Vec<Feature>,
    /// Number of values that have the wrong kind, cannot be parsed, or are too long.
    pub(super) bad_values: u64,
    row_end: usize,
    handler_end: usize,
}

impl Sink {
    /// Whether the row has its share of features.
    pub(super) fn is_full(&self) -> bool {
        self.features.len() >= self.row_end
    }

    pub(super) fn bad(&mut self) {
        self.bad_values += 1;
    }

    /// Adds a feature. It is left out if the row has its share, or if the value or the label is too long.
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

/// Emits all features of a handler. Its root is a member of `attributes`, or `attributes` itself.
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

/// Returns the row's value in an inner object. An inner value that is not an object counts as bad.
fn member_of<'a>(inner: Value<'a>, row: &Row, sink: &mut Sink) -> Option<Value<'a>> {
    if !matches!(inner.kind(), Kind::Object | Kind::Null) {
        sink.bad();
    }
    inner.at(row.path)
}

/// Emits one value, or each value of a list or dictionary.
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

/// The result of a row's checks for a value.
pub(super) enum Checked<'a> {
    Value(Cow<'a, str>),
    /// The value is a 0 that gives no feature, or the zeros that stand for "no date".
    Nothing,
    Bad,
}

/// Returns the text of a scalar after the checks of its row.
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

/// Returns the text of a label: that of a scalar, or the JSON of a list or object.
pub(super) fn text_of(value: Value<'_>) -> Cow<'_, str> {
    format::scalar(value).unwrap_or_else(|| Cow::Borrowed(value.raw()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{catalogue::HandlerSet, format::DateFormat};
    use json::Document;

    /// Returns the features of one handler as `name=value` or `name=value [label]`, and the number of bad values.
    fn features(handler: &str, attributes: &str) -> (Vec<String>, u64) {
        let document = Document::parse(attributes.to_owned()).unwrap();
        let handlers = HandlerSet::parse(handler).unwrap();
        let mut sink = Sink::default();
        for handler in handlers.handlers() {
            emit(handler, document.root(), &mut sink);
        }
        let written = sink.features.iter().map(|f| match f.label.as_str() {
            "" => format!("{}={}", f.name, f.value),
            label => format!("{}={} [{label}]", f.name, f.value),
        });
        (written.collect(), sink.bad_values)
    }

    #[test]
    fn plain_rows_take_scalars_of_any_kind_and_the_empty_text() {
        let attributes = r#"{"magic":"","ssdeep":7,"type_tag":true,"tags":["b","a",null,1.50]}"#;
        let (features, bad) = features("Common", attributes);
        let expected = "magic= ssdeep=7 file_type_vt=true tags=b tags=a tags= tags=1.5";
        assert_eq!((features.join(" ").as_str(), bad), (expected, 0));
    }

    #[test]
    fn a_bad_value_costs_that_value_alone() {
        let attributes = r#"{"magic":["x"],"ssdeep":{},"type_tag":"pdf","tags":["a",{},[1],"b"]}"#;
        let (found, bad) = features("Common", attributes);
        assert_eq!((found.join(" ").as_str(), bad), ("file_type_vt=pdf tags=a tags=b", 4));
        assert_eq!(features("Common", r#"{"tags":"a"}"#), (vec![], 1));
        assert_eq!(features("BundleInfo", r#"{"bundle_info":{"extensions":["a"]}}"#), (vec![], 1));
    }

    #[test]
    fn null_and_missing_are_nothing() {
        assert_eq!(features("Common", r#"{"magic":null,"tags":null}"#), (vec![], 0));
        assert_eq!(features("PeInfo", r#"{"pe_info":null}"#), (vec![], 0));
        assert_eq!(features("PeInfo", r#"{"pe_info":{"sections":null}}"#), (vec![], 0));
        assert_eq!(features("PeInfo", "{}"), (vec![], 0));
    }

    #[test]
    fn a_root_of_the_wrong_kind_is_one_bad_value() {
        assert_eq!(features("PeInfo", r#"{"pe_info":"x"}"#), (vec![], 1));
        let list_expected = r#"{"sigma_analysis_results":{"rule_id":"x"}}"#;
        assert_eq!(features("SigmaAnalysisResults", list_expected), (vec![], 1));
    }

    #[test]
    fn integers_are_whole_numbers_and_zero_says_nothing() {
        let of = |number: &str| {
            let text = format!(r#"{{"bundle_info":{{"num_children":{number}}}}}"#);
            let (features, bad) = features("BundleInfo", &text);
            (features.first().and_then(|f| f.strip_prefix("num_children=").map(str::to_owned)), bad)
        };
        for (number, value) in [("7", "7"), ("\"7\"", "7"), ("1e3", "1000"), ("-2", "-2")] {
            assert_eq!(of(number), (Some(value.to_owned()), 0), "{number}");
        }
        for number in ["0", "\"0\"", "0.0", "null"] {
            assert_eq!(of(number), (None, 0), "{number}");
        }
        for number in ["1.5", "\"x\"", "\"\"", "true", "99999999999999999999", "1e400", "[1]"] {
            assert_eq!(of(number), (None, 1), "{number}");
        }
        let kept = r#"{"office_info":{"summary_info":{"security":0,"page_count":0}}}"#;
        assert_eq!(features("OfficeInfo", kept), (vec!["summary_info_security=0".into()], 0));
    }

    #[test]
    fn floats_are_finite_numbers() {
        let of = |number: &str| {
            features("PeInfo", &format!(r#"{{"pe_info":{{"overlay":{{"chi2":{number}}}}}}}"#))
        };
        for (number, value) in [("0", "0"), ("-1.0", "-1"), ("\"2.50\"", "2.50"), ("1e-3", "0.001")]
        {
            assert_eq!(of(number), (vec![format!("overlay_chi2={value}")], 0), "{number}");
        }
        for number in ["\"x\"", "\"nan\"", "\"inf\"", "true", "1e400"] {
            assert_eq!(of(number), (vec![], 1), "{number}");
        }
    }

    #[test]
    fn dates_that_do_not_parse_are_bad_and_zeros_are_nothing() {
        let of = |date: &str| {
            features("BundleInfo", &format!(r#"{{"bundle_info":{{"lowest_datetime":"{date}"}}}}"#))
        };
        let good = vec!["lowest_datetime=2024-05-01T10:11:12Z".to_owned()];
        assert_eq!(of("2024-05-01 10:11:12"), (good, 0));
        assert_eq!(of("0000-00-00 00:00:00"), (vec![], 0));
        assert_eq!(of("yesterday"), (vec![], 1));
    }

    #[test]
    fn values_in_lists_are_labelled_by_their_item() {
        let attributes = r#"{"pe_info":{"import_list":[
            {"imported_functions":["b","a"],"library_name":"x.dll"},
            7, null, {"imported_functions":["c"]}, {"library_name":5}
        ]}}"#;
        let (features, bad) = features("PeInfo", attributes);
        let expected = [
            "import_list_imported_functions=b [x.dll]",
            "import_list_imported_functions=a [x.dll]",
            "import_list_imported_functions=c",
            "import_list_library_name=x.dll [x.dll]",
            "import_list_library_name=5 [5]",
        ];
        // The 7 is not an object, so it is bad for the row of the functions and for that of the names.
        assert_eq!((features.as_slice(), bad), (expected.map(String::from).as_slice(), 2));
    }

    #[test]
    fn values_in_objects_are_labelled_by_their_key_and_the_first_key_wins() {
        let attributes = r#"{"last_analysis_results":{
            "Z":{"result":"Trojan"},"A":{"result":null},"B":"x","C":{"result":"Worm","result":"Not"},
            "Z":{"result":"Other"}
        }}"#;
        let (features, bad) = features("AvResults", attributes);
        assert_eq!(features, ["av_signature=Trojan [Z]", "av_signature=Worm [C]"]);
        assert_eq!(bad, 1);
    }

    #[test]
    fn dictionaries_give_keys_with_their_values_as_labels() {
        let attributes = r#"{"bundle_info":{"extensions":{"b":2,"a":1.0,"c":null,"d":{"x": [1]},"b":9,"":true}}}"#;
        let (features, bad) = features("BundleInfo", attributes);
        let expected = [
            "extensions=b [2]",
            "extensions=a [1]",
            "extensions=c",
            "extensions=d [{\"x\": [1]}]",
            "extensions= [true]",
        ];
        assert_eq!((features.as_slice(), bad), (expected.map(String::from).as_slice(), 0));
    }

    #[test]
    fn too_long_values_and_labels_are_dropped_and_counted() {
        let of = |length: usize| {
            let long = "x".repeat(length);
            let text = format!(
                r#"{{"tags":["{long}"],"bundle_info":{{"extensions":{{"a":"{long}","{long}":1}}}}}}"#
            );
            let (features, bad) = features("Common,BundleInfo", &text);
            (features.len(), bad)
        };
        assert_eq!(of(MAX_VALUE_BYTES - 1), (3, 0));
        assert_eq!(of(MAX_VALUE_BYTES), (0, 3));
    }

    #[test]
    fn a_row_gives_a_thousand_features_in_document_order() {
        let tags: Vec<_> = (0..1500).map(|n| format!("\"{n}\"")).collect();
        let (features, bad) = features("Common", &format!(r#"{{"tags":[{}]}}"#, tags.join(",")));
        assert_eq!((features.len(), bad), (1000, 0));
        assert_eq!(features.last().unwrap(), "tags=999");
    }

    static ROWS: [Row; 12] = [Row {
        path: &["constants"],
        holds: Holds::Texts,
        shape: Shape::Plain,
        date: None::<DateFormat>,
        keep_zero: false,
        feature: "constants",
        kind: FeatureKind::Text,
        desc: "Only for this test.",
    }; 12];

    #[test]
    fn a_handler_gives_ten_thousand_features_in_order_of_rows() {
        let long = format!("[{}]", vec!["\"x\""; 1000].join(","));
        let item = format!(r#"{{"constants":{long}}}"#);
        let document = Document::parse(format!(r#"{{"class_info":{item}}}"#)).unwrap();
        let handler = Handler { name: "Test", root: "class_info", on: false, rows: &ROWS };
        let mut sink = Sink::default();
        emit(&handler, document.root(), &mut sink);
        assert_eq!(sink.features.len(), MAX_FEATURES_PER_HANDLER);
        emit(&handler, document.root(), &mut sink);
        assert_eq!(sink.features.len(), 2 * MAX_FEATURES_PER_HANDLER, "each handler has its own");
    }
}
