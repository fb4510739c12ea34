//! `vt hunt`: brings the matches of Livehunt rules, once or until it is stopped.

use std::{sync::Arc, time::Duration};

use azul_vt::{
    errors::chain,
    metrics::prometheus::Gateway,
    pipeline::RunLimits,
    settings::Settings,
    store::{self, SystemClock},
};
use hunt::{Hunt, HuntError, Report, Trigger};

use crate::{
    cli::HuntArgs,
    failure::{Failure, say},
    load::{runtime, stop_on_signal},
    metrics,
};

/// Time between two looks of `--watch` for new notifications.
const WATCH: Duration = Duration::from_mins(1);

/// Runs `vt hunt`.
pub(crate) fn run(args: &HuntArgs) -> Result<(), Failure> {
    let settings = crate::settings::begin()?;
    runtime()?.block_on(hunt(args, settings))
}

/// Brings the new notifications and returns the time to wait before the next run.
pub(crate) async fn run_once(hunt: &Hunt, limits: &RunLimits) -> Result<Duration, Failure> {
    repeat(false, &Trigger::Tick, hunt, limits, None).await?;
    Ok(WATCH)
}

async fn hunt(args: &HuntArgs, settings: Settings) -> Result<(), Failure> {
    let store = store::open(&settings.state_options()).await.map_err(Failure::job)?;
    let hunt = Hunt::from_settings(settings, store, Arc::new(SystemClock));
    let hunt = hunt.map_err(Failure::usage)?;
    let gateway = metrics::gateway(&hunt.settings, hunt::NAME)?;
    let trigger = args.retrohunt.clone().map_or(Trigger::Tick, Trigger::Retrohunt);
    let limits = RunLimits::default();
    stop_on_signal(&limits);
    repeat(args.watch, &trigger, &hunt, &limits, gateway.as_ref()).await
}

/// Runs once, or with `watch` until it is stopped.
async fn repeat(
    watch: bool,
    trigger: &Trigger,
    hunt: &Hunt,
    limits: &RunLimits,
    gateway: Option<&Gateway>,
) -> Result<(), Failure> {
    loop {
        let outcome = hunt.run(trigger, limits).await;
        if let (Some(gateway), Ok(report)) = (gateway, &outcome)
            && report.held_by.is_none()
        {
            // The push is broken off soon after `limits` end, so that it does not delay the end.
            limits.run_until(gateway.try_push()).await;
        }
        match outcome {
            Ok(report) => say(&sentence(&report)),
            Err(error) if watch && !needs_operator(&error) => {
                tracing::error!(error = chain(&error), "the run failed; trying again in a minute");
            }
            Err(error) => return Err(Failure::job(error)),
        }
        if !watch || limits.sleep(WATCH).await {
            return Ok(());
        }
    }
}

fn needs_operator(error: &HuntError) -> bool {
    matches!(error, HuntError::VirusTotal(error) if error.needs_operator())
}

fn sentence(report: &Report) -> String {
    if let Some(owner) = &report.held_by {
        return format!("another run is at work ({owner}), so there is nothing to do here");
    }
    let Report { read, delivered, known, requests, .. } = report;
    let mut text = format!(
        "{read} objects read: {delivered} hits delivered, {known} known before, {requests} downloads asked for"
    );
    for (count, what) in [
        (report.unwanted, "not wanted"),
        (report.other_objects, "no files"),
        (report.older, "older than asked for"),
        (report.rejected, "rejected and kept (`vt rejects`)"),
        (report.bad_values, "values left out"),
        (report.too_large, "samples too large to be asked for"),
    ] {
        if count > 0 {
            text = format!("{text}; {count} {what}");
        }
    }
    if report.lost_hours > 0 {
        text = format!("{text}; notifications of {} hours are lost", report.lost_hours);
    }
    if !report.rate_limited.is_empty() {
        text = format!("{text}; rulesets over their limit: {}", report.rate_limited.join(", "));
    }
    if report.paused { format!("{text}; stopped before the end") } else { text }
}
