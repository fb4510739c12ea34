//! `vt load`: loads the minutes of the feed until it has caught up, or until it is stopped.

use std::{
    io::{self, IsTerminal as _},
    sync::Arc,
    time::Duration,
};

use anyhow::anyhow;
use azul_vt::{
    lambda::Function as _,
    metrics::prometheus,
    minute::Minute,
    pipeline::RunLimits,
    settings::Settings,
    store::{self, Clock as _, SystemClock},
    telemetry,
};
use indicatif::{ProgressBar, ProgressStyle};
use load::{Load, LoadError, Report, Step};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::LoadArgs,
    failure::{Failure, say},
    metrics,
    output::Output,
    state,
};

/// Time between two looks of `--watch` for new minutes.
const WATCH: Duration = Duration::from_mins(1);
/// Time between two looks of `--watch` for minutes in the queue, where there are workers. It is shorter because other
/// processes may send minutes at any time.
const WATCH_QUEUE: Duration = Duration::from_secs(5);

/// Runs `vt load`.
pub(crate) fn run(args: &LoadArgs) -> Result<(), Failure> {
    let settings = crate::settings::read()?;
    let bar = bar();
    let around = bar.clone();
    let stderr = move || Around(around.clone());
    telemetry::init_text(&settings.log, stderr).map_err(Failure::usage)?;
    prometheus::init().map_err(Failure::job)?;
    if let (Some(from), Some(to)) = (args.from, args.to)
        && to < from
    {
        return Err(Failure::Usage(anyhow!("--to {to} is before --from {from}")));
    }
    if args.dry_run {
        return plan(args, &settings);
    }
    runtime()?.block_on(load(args, settings, bar))
}

/// Runs `vt replay`, and `vt retry`: a range of one minute.
pub(crate) fn replay(from: Minute, to: Minute, fetch: bool) -> Result<(), Failure> {
    let (from, to) = (Some(from), Some(to));
    run(&LoadArgs { watch: false, workers: None, from, to, fetch, dry_run: false })
}

/// A runtime with a thread a core.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::job)
}

async fn load(
    args: &LoadArgs,
    settings: Settings,
    bar: Option<ProgressBar>,
) -> Result<(), Failure> {
    let store = store::open(&settings.state_options()).await.map_err(Failure::job)?;
    let gateway = metrics::gateway(&settings, load::NAME)?;
    let clock = Arc::new(SystemClock);
    let mut load = Load::from_settings(settings, store, clock).await.map_err(Failure::usage)?;
    if let Some(bar) = bar.clone() {
        load.observer = Box::new(move |step| match step {
            Step::Due(minutes) => bar.set_length(bar.position().saturating_add(minutes)),
            Step::Minute(minute) => bar.set_message(minute.to_string()),
            Step::Done(_) => {
                bar.inc(1);
                // The announced length does not count the gaps that were due, nor the minutes that another process
                // sent.
                bar.set_length(bar.length().unwrap_or(0).max(bar.position()));
            }
        });
    }
    let limits = RunLimits::default();
    stop_on_signal(&limits);
    // On one host, minutes go to workers if there are several. On AWS they go to workers if there is a queue for them.
    load.fan_out |= load.settings.aws.is_none() && args.workers.is_some_and(|n| n > 1);
    let working = Box::pin(repeat(args, &load, &limits, bar.as_ref()));
    metrics::pushing(gateway.as_ref(), &limits, async || load.measure().await, working).await
}

/// Does one run: loads a range or what is due, with workers if there is a queue for them.
async fn once(args: &LoadArgs, load: &Load, limits: &RunLimits) -> Result<Report, LoadError> {
    if let (Some(from), Some(to)) = (args.from, args.to) {
        return load.replay(from, to, args.fetch, limits).await;
    }
    match args.workers {
        None if load.fan_out => load.catch_up_with(1, false, limits).await,
        None => load.tick(limits).await,
        Some(workers) => load.catch_up_with(workers.into(), true, limits).await,
    }
}

/// Loads the minutes that are due and returns the time to wait before the next run.
pub(crate) async fn run_once(load: &Load, limits: &RunLimits) -> Result<Duration, Failure> {
    let args = LoadArgs {
        watch: false,
        workers: None,
        from: None,
        to: None,
        fetch: false,
        dry_run: false,
    };
    let report = once(&args, load, limits).await.map_err(Failure::job)?;
    let wait = if load.fan_out { WATCH_QUEUE } else { WATCH };
    if wait == WATCH || !report.is_idle() {
        say(&sentence(&report));
    }
    Ok(wait)
}

/// Runs once, or with `--watch` until it is stopped.
async fn repeat(
    args: &LoadArgs,
    load: &Load,
    limits: &RunLimits,
    bar: Option<&ProgressBar>,
) -> Result<(), Failure> {
    let watch = args.watch;
    let wait = if load.fan_out || args.workers.is_some() { WATCH_QUEUE } else { WATCH };
    loop {
        let outcome = once(args, load, limits).await;
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        match outcome {
            Ok(report) if watch && wait == WATCH_QUEUE && report.is_idle() => {}
            Ok(report) => say(&sentence(&report)),
            Err(error @ LoadError::NoKey) => return Err(Failure::usage(error)),
            Err(error @ LoadError::Refused { .. }) => return Err(Failure::job(error)),
            Err(error) if watch => {
                let error = azul_vt::errors::chain(&error);
                tracing::error!(error, "the run failed; trying again in a minute");
            }
            Err(error) => return Err(Failure::job(error)),
        }
        if !watch || load.is_sated(limits) || limits.sleep(wait).await {
            return Ok(());
        }
    }
}

/// Prints what is due, or the plan of a range, without creating a state.
fn plan(args: &LoadArgs, settings: &Settings) -> Result<(), Failure> {
    let store = state::existing(settings)?;
    if store.is_none() {
        say(&state::none_yet(settings));
    }
    let mut output = Output::open();
    if let (Some(from), Some(to)) = (args.from, args.to) {
        let planned = Load::plan_replay(store.as_ref(), from, to, args.fetch);
        for minute in state::block_on(async { planned.await.map_err(Failure::job) })? {
            output.json(&minute)?;
        }
    } else {
        let plan = Load::plan(settings, store.as_ref(), SystemClock.now());
        output.json(&state::block_on(async { plan.await.map_err(Failure::job) })?)?;
    }
    output.finish()
}

/// Ends the work soon after Ctrl-C or SIGTERM, at a point from which it can be continued. A second signal ends the
/// process at once. Must be called inside of a tokio runtime, and before anybody is told that the process is there.
pub(crate) fn stop_on_signal(limits: &RunLimits) {
    let stop = limits.stop.clone();
    // The handlers are set here and not in the task, so that from now on no signal ends the process in another way.
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return };
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        say("vt: stopping at the end of what is in flight");
        stop.cancel();
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        std::process::exit(130);
    });
}

/// Standard error, from which the bar is taken away while a line is written.
struct Around(Option<ProgressBar>);

impl io::Write for Around {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Some(bar) => bar.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn bar() -> Option<ProgressBar> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} minutes, at {msg}").ok()?;
    Some(ProgressBar::new(0).with_style(style))
}

fn sentence(report: &Report) -> String {
    if let Some(owner) = report.held_by.as_ref().filter(|_| report.is_idle()) {
        return format!("another run is at work ({owner}), so there is nothing to do here");
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
        (report.left, "minutes left to others"),
    ] {
        if count > 0 {
            text = format!("{text}; {count} {what}");
        }
    }
    if report.paused { format!("{text}; stopped before the end") } else { text }
}
