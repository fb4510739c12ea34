//! `vt load`: the feed's minutes, until caught up or for ever.

use std::{io::IsTerminal as _, sync::Arc, time::Duration};

use azul_vt::{
    minute::Minute,
    pipeline::{Limits, posted},
    settings::Settings,
    store::{self, SystemClock},
    telemetry::{self, Format},
};
use indicatif::{ProgressBar, ProgressStyle};
use load::{Load, LoadError, Report, Step, Trigger};

use crate::{
    cli::LoadArgs,
    failure::{Failure, say},
    output::Output,
};

/// How often `--watch` looks for new minutes.
const WATCH: Duration = Duration::from_mins(1);

/// Runs `vt load`.
pub(crate) fn run(args: &LoadArgs) -> Result<(), Failure> {
    let settings = crate::settings::read()?;
    telemetry::init(&settings.log, Format::Text).map_err(Failure::usage)?;
    runtime()?.block_on(load(args, settings))
}

/// Runs `vt retry`: a range of one minute.
pub(crate) fn retry(minute: Minute) -> Result<(), Failure> {
    let range = Some(minute);
    run(&LoadArgs { watch: false, from: range, to: range, dry_run: false })
}

/// A runtime with a thread a core.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::job)
}

async fn load(args: &LoadArgs, settings: Settings) -> Result<(), Failure> {
    let store = store::open(&settings).await.map_err(Failure::job)?;
    let contact = settings.contact.clone();
    let clock = Arc::new(SystemClock);
    let mut load = Load::from_settings(settings, store, clock).map_err(Failure::usage)?;
    let mut output = Output::open();
    if args.dry_run {
        output.json(&load.plan().await.map_err(Failure::job)?)?;
        return output.finish();
    }
    let range = args.from.is_some();
    // Said before the dispatcher is waited for, where there is nothing to do without the key.
    if load.virustotal.is_none() && !range {
        let waiting = load.store.bundles.list(posted::FOLDER).await.map_err(Failure::job)?;
        if waiting.is_empty() {
            return Err(Failure::job(LoadError::NoKey));
        }
    }
    let bar = bar();
    if let Some(bar) = bar.clone() {
        load.observer = Box::new(move |step| match step {
            Step::Minute(minute, due) => {
                bar.set_length(bar.position().saturating_add(due));
                bar.set_message(minute.to_string());
            }
            Step::Done(_) => bar.inc(1),
        });
    }
    let limits = Limits::default();
    stop_on_signal(&limits);
    let now = store::Clock::now(&SystemClock);
    tokio::select! {
        registered = load.pipeline.register(&contact, now, None) => registered.map_err(Failure::job)?,
        () = limits.stop.cancelled() => return Ok(()),
    }
    let trigger = match (args.from, args.to) {
        (Some(from), Some(to)) => Trigger::Range { from, to },
        _ => Trigger::Tick,
    };
    loop {
        let outcome = load.run(&trigger, &limits).await;
        if let Some(bar) = &bar {
            bar.finish_and_clear();
        }
        match outcome {
            Ok(report) => say(&sentence(&report)),
            Err(error @ (LoadError::NoKey | LoadError::Refused { .. } | LoadError::Range(_))) => {
                return Err(Failure::job(error));
            }
            Err(error) if args.watch => {
                let error = azul_vt::errors::chain(&error);
                tracing::error!(error, "the run failed; trying again in a minute");
            }
            Err(error) => return Err(Failure::job(error)),
        }
        if !args.watch || limits.sleep(WATCH).await {
            return Ok(());
        }
    }
}

/// Ends the work at the border of a batch at Ctrl-C or SIGTERM; a second Ctrl-C ends it at once.
pub(crate) fn stop_on_signal(limits: &Limits) {
    let stop = limits.stop.clone();
    tokio::spawn(async move {
        let Ok(mut terminate) =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        else {
            return;
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        say("vt: stopping at the end of what is in flight");
        stop.cancel();
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
}

fn bar() -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} minutes, at {msg}").ok()?;
    Some(ProgressBar::new(0).with_style(style))
}

fn sentence(report: &Report) -> String {
    if let Some(owner) = &report.held_by {
        return format!("another one is at work ({owner}); nothing to do here");
    }
    let counts = &report.counts;
    let cursor = report.cursor.map_or_else(String::new, |minute| format!(" up to minute {minute}"));
    let mut text = format!(
        "loaded {} minutes{cursor}: {} records, {} delivered, {} filtered, {} rejected, {} download requests",
        report.loaded,
        counts.records,
        counts.delivered,
        counts.filtered,
        counts.rejected,
        counts.requests
    );
    for (count, what) in [
        (report.missing, "minutes missing at VirusTotal"),
        (report.failed, "minutes failed"),
        (report.buried, "minutes given up"),
        (report.swept, "posted bodies delivered"),
    ] {
        if count > 0 {
            text = format!("{text}; {count} {what}");
        }
    }
    if report.paused { format!("{text}; stopped before the end") } else { text }
}
