//! The metrics of all functions, with one set of names for Prometheus and CloudWatch.
//!
//! The code only records what happened; the process decides where metrics go. `vt` answers scrapers and pushes to a
//! gateway ([`prometheus`]). A Lambda writes lines of CloudWatch's embedded metric format ([`emf`]). If neither was
//! initialized, metrics are dropped.

use ::metrics::{Label, Unit, counter, gauge, histogram};

pub mod emf;
pub mod prometheus;

/// The description of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name of the metric in Prometheus and in CloudWatch.
    pub name: &'static str,
    /// Unit of the values.
    pub unit: Unit,
    /// Names of the labels (CloudWatch: dimensions), in the order in which their values are given.
    pub labels: &'static [&'static str],
    /// Functions that report the metric.
    pub of: &'static [&'static str],
    /// Meaning of the metric, in the words of docs/operations.md.
    pub meaning: &'static str,
}

/// A metric whose value only grows while the process lives.
#[derive(Debug)]
pub struct Counter(pub Metric);

/// A metric with a current value.
#[derive(Debug)]
pub struct Gauge(pub Metric);

/// A metric that records the distribution of many observations.
#[derive(Debug)]
pub struct Histogram(pub Metric);

impl Metric {
    fn labels<const N: usize>(&self, values: [&str; N]) -> Vec<Label> {
        debug_assert_eq!(N, self.labels.len(), "a value for each label of {}", self.name);
        let pairs = self.labels.iter().zip(values);
        pairs.map(|(name, value)| Label::new(*name, value.to_owned())).collect()
    }

    /// Whether the metric goes to CloudWatch. CloudWatch charges for each combination of dimensions, so metrics with
    /// labels that operators and rules choose freely do not go there.
    pub fn is_for_cloudwatch(&self) -> bool {
        !self.labels.contains(&"category")
    }
}

impl Counter {
    /// Adds `n` for these values of the labels. Adding 0 makes the counter appear in the output.
    pub fn add<const N: usize>(&self, values: [&str; N], n: u64) {
        counter!(self.0.name, self.0.labels(values)).increment(n);
    }
}

impl Gauge {
    /// Sets the gauge for these values of the labels.
    pub fn set<const N: usize>(&self, values: [&str; N], value: impl Number) {
        let value = value.into_f64();
        if !emf::is_on() {
            gauge!(self.0.name, self.0.labels(values)).set(value);
        } else if self.0.is_for_cloudwatch() {
            emf::set(&self.0, self.0.labels.iter().copied().zip(values), value);
        }
    }
}

impl Histogram {
    /// Adds an observation for these values of the labels.
    pub fn observe<const N: usize>(&self, values: [&str; N], value: f64) {
        histogram!(self.0.name, self.0.labels(values)).record(value);
        emf::observed();
    }
}

/// A whole number that can be a metric's value. Values up to 2⁵³ are exact.
pub trait Number {
    /// Returns the nearest `f64`.
    fn into_f64(self) -> f64;
}

impl Number for u64 {
    #[expect(clippy::cast_precision_loss, reason = "nothing is counted as far as 2⁵³")]
    fn into_f64(self) -> f64 {
        self as f64
    }
}

impl Number for i64 {
    #[expect(clippy::cast_precision_loss, reason = "nothing is counted as far as 2⁵³")]
    fn into_f64(self) -> f64 {
        self as f64
    }
}

/// Declares the metrics and lists them.
macro_rules! table {
    ($($variable:ident: $kind:ident = $name:literal, $unit:ident, $labels:expr, $of:expr, $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub static $variable: $kind = $kind(Metric {
                name: concat!("virustotal_plugin_", $name),
                unit: Unit::$unit,
                labels: &$labels,
                of: &$of,
                meaning: $meaning,
            });
        )*

        /// Returns all metrics, in the order of docs/operations.md.
        pub fn all() -> Vec<&'static Metric> {
            vec![$(&$variable.0),*]
        }

        /// Registers the unit and the meaning of each metric with the recorder.
        fn describe() {
            $(table!(@describe $kind, $variable.0);)*
        }
    };
    (@describe Counter, $metric:expr) => {
        ::metrics::describe_counter!($metric.name, $metric.unit, $metric.meaning);
    };
    (@describe Gauge, $metric:expr) => {
        ::metrics::describe_gauge!($metric.name, $metric.unit, $metric.meaning);
    };
    (@describe Histogram, $metric:expr) => {
        ::metrics::describe_histogram!($metric.name, $metric.unit, $metric.meaning);
    };
}

// The name and the unit of `last_ingested_timestamp` are the Go plugin's, because existing dashboards use them.
table! {
    RECORDS: Counter = "records_total", Count, ["function"], ["load", "ingest"],
        "number of records that were read";
    EVENTS: Counter = "events_total", Count, ["function", "outcome"], ["load", "ingest"],
        "number of events and records that were `delivered`, `filtered`, `rejected`";
    DOWNLOAD_REQUESTS: Counter = "download_requests_total", Count, ["function"], ["load", "ingest"],
        "number of download requests that the dispatcher acknowledged";
    LAST_INGESTED: Gauge = "last_ingested_timestamp", Milliseconds, ["function"], ["load", "ingest"],
        "time at which records were delivered last, in milliseconds since 1970";
    BUNDLES: Counter = "bundles_total", Count, ["function", "outcome"], ["load"],
        "number of feed minutes that were `loaded`, `missing`, `failed`, `buried` (given up)";
    GAPS: Gauge = "gaps", Count, ["function"], ["load"],
        "number of gaps, which are feed minutes that are tried again";
    OLDEST_GAP: Gauge = "oldest_gap_seconds", Seconds, ["function"], ["load"],
        "age of the oldest gap; 0 if there is none";
    LAST_LOADED: Gauge = "last_loaded_minute_timestamp_seconds", Seconds, ["function"], ["load"],
        "the feed minute up to which every minute is loaded, a gap or given up";
    LAG: Gauge = "lag_seconds", Seconds, ["function"], ["load"],
        "time from the last loaded minute to now; the feed itself is an hour behind";
    ANSWERS: Counter = "answers_total", Count, ["function", "status"], ["ingest", "query", "download"],
        "number of HTTP answers";
    SIGNATURE_FAILURES: Counter = "signature_failures_total", Count, ["function"], ["ingest", "query", "download"],
        "number of requests whose signature, token or caller was refused";
    INBOX_ITEMS: Gauge = "inbox_items", Count, ["function", "state"], ["query", "download"],
        "number of events in the inbox that are `waiting`, `in_work`, `buried`";
    POLLED_EVENTS: Counter = "polled_events_total", Count, ["function", "outcome"], ["query", "download"],
        "number of events that the dispatcher handed out to polls: `accepted`, `ignored` (not the function's work), `rejected` (cannot be read)";
    REQUESTS_USED: Gauge = "requests_used", Count, ["window"], ["query", "download"],
        "number of requests to VirusTotal in the last `minute`, `day`, `month`, for each window that is limited";
    REQUESTS_ALLOWED: Gauge = "requests_allowed", Count, ["window"], ["query", "download"],
        "limit of requests to VirusTotal, `VT_REQUESTS_PER_…`";
    HITS: Counter = "hits_total", Count, ["function", "outcome"], ["hunt"],
        "number of Livehunt objects that were `delivered`, `known`, `unwanted`, `rejected`, or no file (`other_object`), and of downloads `requested`";
    HUNT_POSITION: Gauge = "hunt_position_timestamp_seconds", Seconds, ["function"], ["hunt"],
        "date of the last notification that was delivered";
    HUNT_LOST_HOURS: Gauge = "hunt_lost_hours", Count, ["function"], ["hunt"],
        "number of hours whose notifications were never read";
    HUNT_RATE_LIMITED: Gauge = "hunt_rate_limited_rulesets", Count, ["function"], ["hunt"],
        "number of rulesets that match more than they may a day";
    DOWNLOADS: Counter = "downloads_total", Count, ["function", "outcome"], ["download"],
        "number of download requests that ended as `success`, `already_present`, `not_found`, `failed`, or were `skipped` because a quota was full";
    DOWNLOADS_TODAY: Gauge = "downloads_today", Count, ["category"], ["download"],
        "number of downloads of this UTC day in a category, including those of others; not sent to CloudWatch";
    DOWNLOADS_TODAY_TOTAL: Gauge = "downloads_today_total", Count, ["function"], ["download"],
        "number of downloads of this UTC day in all categories";
    DOWNLOADS_TODAY_API_CHARGED: Gauge = "downloads_today_api_charged", Count, ["function"], ["download"],
        "number of downloads of this UTC day that cost a request to VirusTotal";
    DOWNLOADS_TODAY_PCAPS: Gauge = "downloads_today_pcaps", Count, ["function"], ["download"],
        "number of network captures of this UTC day";
    FULLEST_QUOTA: Gauge = "fullest_quota_percent", Percent, ["function"], ["download"],
        "highest use of a category's quota on this UTC day, among the quotas that a request named since the process began";
    VIRUSTOTAL_ANSWERS: Counter = "virustotal_answers_total", Count, ["class"], ["load", "query", "download", "hunt"],
        "number of answers of VirusTotal and of the hosts that it redirects to: `ok`, `not_found`, `refused` (401 and 403), `limited` (429), `failed` (any other), `no_answer`";
    DISPATCHER_SECONDS: Histogram = "dispatcher_seconds", Seconds, [], ["load", "ingest", "query", "download", "hunt"],
        "time from a post of events to the dispatcher's answer, or to its failure";
}
