//! Collects the metrics of a process of `vt`. Scrapers fetch them as text, or they are pushed to a Pushgateway.

use std::{sync::OnceLock, time::Duration};

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use url::Url;

use base::{errors::chain, peer_text};
use net::http_client;

/// Media type of the text that [`render`] returns. Old and new scrapers and the Pushgateway can read this text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Value of the grouping label `job` of pushed metrics.
pub const JOB: &str = "virustotal_plugin";

/// Longest time of a push. A slow gateway must not hold up the work that the metrics are about.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Upper bounds of the buckets of histograms, in seconds.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Interval at which observations are summed up. Until then they take memory one by one.
const UPKEEP: Duration = Duration::from_mins(1);

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Begins to collect metrics in this process. A second call does nothing.
///
/// # Errors
/// Fails if metrics are collected elsewhere already.
pub fn init() -> Result<(), BuildError> {
    if HANDLE.get().is_some() {
        return Ok(());
    }
    let handle = PrometheusBuilder::new().set_buckets(&BUCKETS)?.install_recorder()?;
    let kept = handle.clone();
    if HANDLE.set(handle).is_ok() {
        // The upkeep is needed even if nobody scrapes. It has a thread, because not every command has a runtime.
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(UPKEEP);
                kept.run_upkeep();
            }
        });
    }
    super::describe();
    Ok(())
}

/// Returns all metrics as text of the media type [`CONTENT_TYPE`]; `None` if they are not collected for Prometheus.
pub fn render() -> Option<String> {
    HANDLE.get().map(PrometheusHandle::render)
}

/// Reasons why metrics were not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The gateway does not answer.
    #[error("the Pushgateway does not answer")]
    NoAnswer(#[source] reqwest::Error),
    /// The gateway answers with an error status.
    #[error("the Pushgateway answers {status}: {said}")]
    Refused {
        /// HTTP status of the answer.
        status: u16,
        /// The beginning of the answer's body.
        said: String,
    },
}

/// A group of a Pushgateway to which metrics are pushed.
#[derive(Clone, Debug)]
pub struct Gateway {
    client: reqwest::Client,
    url: Url,
}

impl Gateway {
    /// Returns the group `job=`[`JOB`], `function=<function>` of the Pushgateway at `base`.
    pub fn new(client: reqwest::Client, base: &Url, function: &str) -> Self {
        let mut url = base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["metrics", "job", JOB, "function", function]);
        }
        Self { client, url }
    }

    /// Pushes the metrics of this process. They replace the group's metrics of the same names; all others stay.
    ///
    /// # Errors
    /// Fails if there is no answer within 5 s, or one with an error status. Callers should only log a warning.
    pub async fn push(&self) -> Result<(), PushError> {
        // The URL is removed from the error, because it may hold a password.
        let failed = |error: reqwest::Error| PushError::NoAnswer(error.without_url());
        let request = self
            .client
            .post(self.url.clone())
            .header(reqwest::header::CONTENT_TYPE, CONTENT_TYPE)
            .timeout(TIMEOUT)
            .body(render().unwrap_or_default());
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let said = http_client::start_of_body(answer, 4096).await.map_err(failed)?;
        let said = peer_text::line(&String::from_utf8_lossy(&said), 200);
        Err(PushError::Refused { status: status.as_u16(), said })
    }

    /// Pushes as [`Gateway::push`] does, and logs a failure.
    pub async fn try_push(&self) {
        if let Err(error) = self.push().await {
            let error = chain(&error);
            tracing::warn!(error, "PLUGIN_PROMETHEUS_PUSH_GATEWAY: metrics were not pushed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_may_stand_below_a_path() {
        for (base, url) in [
            ("http://gw:9091", "http://gw:9091/metrics/job/virustotal_plugin/function/load"),
            ("http://gw/a/", "http://gw/a/metrics/job/virustotal_plugin/function/load"),
        ] {
            let base = base.parse().unwrap();
            let gateway = Gateway::new(reqwest::Client::new(), &base, "load");
            assert_eq!(gateway.url.as_str(), url);
        }
    }
}
