//! `vt load`: the feed's minutes, until caught up or for ever.

use std::{
    io::{self, IsTerminal as _},
    sync::Arc,
    time::Duration,
};

use anyhow::anyhow;
use azul_vt::{
    minute::Minute,
    pipeline::Limits,
    settings::Settings,
    store::{self, Clock as _, SystemClock},
    telemetry,
};
use indicatif::{ProgressBar, ProgressStyle};
use load::{Load, LoadError, Report, Step, Trigger};

use crate::{
    cli::LoadArgs,
    failure::{Failure, say},
    metrics,
    output::Output,
    state,
};

/// How often `--watch` looks for new minutes.
const WATCH: Duration = Duration::from_mins(1);

/// Runs `vt load`.
pub(crate) fn run(args: &LoadArgs) -> Result<(), Failure> {
    let settings = crate::settings::read()?;
    let bar = bar();
    let around = bar.clone();
    let stderr = move || Around(around.clone());
    telemetry::init_text(&settings.log, stderr).map_err(Failure::usage)?;
    if args.dry_run {
        return plan(&settings);
    }
    runtime()?.block_on(load(args, settings, bar))
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

async fn load(
    args: &LoadArgs,
    settings: Settings,
    bar: Option<ProgressBar>,
) -> Result<(), Failure> {
    if let (Some(from), Some(to)) = (args.from, args.to)
        && to < from
    {
        return Err(Failure::Usage(anyhow!("--to {to} is before --from {from}")));
    }
    let store = store::open(&settings).await.map_err(Failure::job)?;
    let pushed = metrics::Pushed::new(&settings, &store)?;
    let clock = Arc::new(SystemClock);
    let mut load = Load::from_settings(settings, store, clock).await.map_err(Failure::usage)?;
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
    let trigger = match (args.from, args.to) {
        (Some(from), Some(to)) => Trigger::Range { from, to },
        _ => Trigger::Tick,
    };
    let between = pushed.clone().map(|pushed| tokio::spawn(pushed.keep_pushing()));
    let outcome =
        repeat(args.watch, &load, &trigger, &limits, bar.as_ref(), pushed.as_deref()).await;
    if let Some(between) = between {
        between.abort();
    }
    outcome
}

/// Runs once, or with `watch` until it is stopped.
async fn repeat(
    watch: bool,
    load: &Load,
    trigger: &Trigger,
    limits: &Limits,
    bar: Option<&ProgressBar>,
    pushed: Option<&metrics::Pushed>,
) -> Result<(), Failure> {
    loop {
        let outcome = load.run(trigger, limits).await;
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        if let Some(pushed) = pushed {
            pushed.ran(outcome.as_ref().ok()).await;
        }
        match outcome {
            Ok(report) => say(&sentence(&report)),
            Err(error @ LoadError::NoKey) => return Err(Failure::usage(error)),
            Err(error @ LoadError::Refused { .. }) => return Err(Failure::job(error)),
            Err(error) if watch => {
                let error = azul_vt::errors::chain(&error);
                tracing::error!(error, "the run failed; trying again in a minute");
            }
            Err(error) => return Err(Failure::job(error)),
        }
        if !watch || load.is_sated(limits) || limits.sleep(WATCH).await {
            return Ok(());
        }
    }
}

/// What is due, without making a state.
fn plan(settings: &Settings) -> Result<(), Failure> {
    let store = state::existing(settings)?;
    if store.is_none() {
        say(&state::none_yet(settings));
    }
    let plan = state::block_on(async {
        let plan = Load::plan(settings, store.as_ref(), SystemClock.now()).await;
        plan.map_err(Failure::job)
    })?;
    let mut output = Output::open();
    output.json(&plan)?;
    output.finish()
}

/// Ends the work at Ctrl-C or SIGTERM, soon and where it can be gone on with; a second one ends it at once.
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
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
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
    if let Some(owner) = &report.held_by {
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
    ] {
        if count > 0 {
            text = format!("{text}; {count} {what}");
        }
    }
    if report.paused { format!("{text}; stopped before the end") } else { text }
}
