//! Metrics of a Lambda: lines of CloudWatch's embedded metric format in its log, from which CloudWatch takes
//! them by itself.

use std::{
    io::{self, Write as _},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use metrics_cloudwatch_embedded::{Builder, Collector};

/// CloudWatch's name for all of them.
pub const NAMESPACE: &str = "AzulVirusTotal";

/// The format holds at most 100 observations of a metric: they are written before there are as many.
const MOST_OBSERVED: usize = 64;

static COLLECTOR: OnceLock<&'static Collector> = OnceLock::new();
static OBSERVED: AtomicUsize = AtomicUsize::new(0);

/// Begins to collect metrics in this process. A second call does nothing, nor does one where metrics go
/// elsewhere already.
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

/// Writes to standard output what came since the last time: counters what was added, gauges what they are.
pub fn flush() {
    let Some(collector) = COLLECTOR.get() else { return };
    OBSERVED.store(0, Ordering::Relaxed);
    // At once, so that no line of the log comes between. There is nobody to tell of a failure.
    let mut lines = Vec::new();
    if collector.flush(&mut lines).is_ok() {
        let _ = io::stdout().lock().write_all(&lines);
    }
}

/// Counts an observation of a histogram.
pub(super) fn observed() {
    if is_on() && OBSERVED.fetch_add(1, Ordering::Relaxed) >= MOST_OBSERVED {
        flush();
    }
}
