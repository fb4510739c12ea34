//! Writes the metrics of a Lambda to its log, as lines of CloudWatch's embedded metric format. CloudWatch reads them
//! from there.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    mem,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use jiff::Timestamp;
use metrics_cloudwatch_embedded::{Builder, Collector};
use serde_json::{Map, Value, json};

use super::Metric;

/// CloudWatch namespace of all metrics.
pub const NAMESPACE: &str = "AzulVirusTotal";

/// Most observations that are collected before they are written. The format allows 100 observations of a metric.
const MAX_OBSERVED: usize = 64;

static COLLECTOR: OnceLock<&'static Collector> = OnceLock::new();
static OBSERVED: AtomicUsize = AtomicUsize::new(0);
/// Gauges that were set and not written yet, by their labels. They are not kept in the collector, because it writes an
/// old value again and again as the current one.
static GAUGES: Mutex<BTreeMap<Labels, Gauges>> = Mutex::new(BTreeMap::new());

type Labels = Vec<(&'static str, String)>;
/// Unit and value of gauges, by the gauge's name.
type Gauges = BTreeMap<&'static str, (String, f64)>;

/// Begins to collect metrics in this process. It does nothing if metrics are collected already, here or elsewhere.
pub fn init() {
    let built = Builder::new().cloudwatch_namespace(NAMESPACE).init();
    if let Ok(collector) = built
        && COLLECTOR.set(collector).is_ok()
    {
        super::describe();
    }
}

pub(super) fn is_on() -> bool {
    COLLECTOR.get().is_some()
}

/// Keeps the value of a gauge until the next [`flush`].
pub(super) fn set<'a>(
    metric: &Metric,
    labels: impl Iterator<Item = (&'static str, &'a str)>,
    value: f64,
) {
    let labels = labels.map(|(name, value)| (name, value.to_owned())).collect();
    // CloudWatch's names of units are those of the variants.
    let unit = format!("{:?}", metric.unit);
    let mut gauges = GAUGES.lock().unwrap_or_else(PoisonError::into_inner);
    gauges.entry(labels).or_default().insert(metric.name, (unit, value));
}

/// Writes the metrics since the last call to standard output: counters with what was added, and gauges with their last
/// value.
pub fn flush() {
    let Some(collector) = COLLECTOR.get() else { return };
    OBSERVED.store(0, Ordering::Relaxed);
    // All lines are written at once, so that no line of the log comes between. A failure cannot be reported anywhere.
    let mut lines = Vec::new();
    let counted = collector.flush(&mut lines);
    let gauges = mem::take(&mut *GAUGES.lock().unwrap_or_else(PoisonError::into_inner));
    let now = Timestamp::now();
    for (labels, gauges) in gauges {
        lines.extend(format!("{}\n", line(labels, gauges, now)).into_bytes());
    }
    if counted.is_ok() {
        let _ = io::stdout().lock().write_all(&lines);
    }
}

/// Returns a document of the format with all gauges that have the same labels.
fn line(labels: Labels, gauges: Gauges, now: Timestamp) -> Value {
    let names: Vec<_> = labels.iter().map(|(name, _)| *name).collect();
    let metrics: Vec<_> =
        gauges.iter().map(|(name, (unit, _))| json!({"Name": name, "Unit": unit})).collect();
    let mut line = Map::new();
    let what = json!([{"Namespace": NAMESPACE, "Dimensions": [names], "Metrics": metrics}]);
    line.insert(
        "_aws".into(),
        json!({"Timestamp": now.as_millisecond(), "CloudWatchMetrics": what}),
    );
    line.extend(labels.into_iter().map(|(name, value)| (name.to_owned(), json!(value))));
    line.extend(gauges.into_iter().map(|(name, (_, value))| (name.to_owned(), json!(value))));
    Value::Object(line)
}

/// Counts an observation of a histogram, and writes all metrics before a document has too many.
pub(super) fn observed() {
    if is_on() && OBSERVED.fetch_add(1, Ordering::Relaxed) >= MAX_OBSERVED {
        flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;

    #[test]
    fn a_gauge_is_told_with_its_unit_and_labels_once_each_time_it_is_set() {
        set(&metrics::LAG.0, [("function", "load")].into_iter(), 90.0);
        set(&metrics::LAG.0, [("function", "load")].into_iter(), 60.0);
        let mut gauges = mem::take(&mut *GAUGES.lock().unwrap());
        assert!(GAUGES.lock().unwrap().is_empty());
        let (labels, gauges) = gauges.pop_first().unwrap();
        let told = line(labels, gauges, Timestamp::UNIX_EPOCH);
        let name = "virustotal_plugin_lag_seconds";
        let what = json!({
            "Namespace": NAMESPACE,
            "Dimensions": [["function"]],
            "Metrics": [{"Name": name, "Unit": "Seconds"}],
        });
        let aws = json!({"Timestamp": 0, "CloudWatchMetrics": [what]});
        assert_eq!(told, json!({"_aws": aws, "function": "load", name: 60.0}));
    }
}
