//! `vt status`: prints how far the feed was loaded, and what keeps it from being loaded.

use std::sync::Arc;

use azul_vt::{
    minute::Minute,
    pipeline::posted,
    settings::Settings,
    store::{
        LedgerRow, LedgerTotals, MinuteState, QuotaUsage, Store, StoreError,
        failures::{self, Failure as Failed, Subject},
        inbox::{InboxCounts, Queue},
        rejects::Rejects,
        totals::{Totals, utc_day},
    },
};
use jiff::Timestamp;
use serde::Serialize;

use crate::{cli::StatusArgs, failure::Failure, output::Output, settings, state};

/// Most gaps that are listed; the totals count all of them.
const GAPS_LISTED: usize = 1000;
/// Most gaps that are printed without `--json`.
const GAPS_PRINTED: usize = 20;
/// Most failures of look-ups, downloads and minutes that are listed, the newest first.
const FAILURES_LISTED: usize = 10;

/// The state as `--json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    state: String,
    now: Timestamp,
    /// Last settled minute: it and every minute before it are loaded, a listed gap, or given up. `None` before the
    /// first run.
    cursor: Option<Minute>,
    /// From the cursor to now; the feed itself is 60 minutes behind.
    lag_minutes: Option<i64>,
    lease: Option<Holder>,
    totals: LedgerTotals,
    gaps: Vec<LedgerRow>,
    /// Downloads of today (UTC), all and by category.
    quotas: Totals,
    /// Date of the last Livehunt notification that was delivered; `None` before the first run.
    hunted_until: Option<Timestamp>,
    /// Rulesets of Livehunt that match more than they may a day, as far as is known.
    rate_limited: Vec<String>,
    /// Objects under `rejects/`.
    rejects: usize,
    /// Posted bodies that wait for their delivery.
    posted: usize,
    /// Waiting items of each function's queue. On AWS, only the configured queues are listed, and SQS counts roughly.
    inbox: Vec<Waiting>,
    /// The latest failures of look-ups, downloads and minutes.
    failures: Vec<Failed>,
}

/// The waiting items of a function's queue.
#[derive(Debug, Serialize)]
struct Waiting {
    queue: Queue,
    /// Counts of items. `oldest` is the time at which the oldest waiting item was put; SQS does not give it.
    #[serde(flatten)]
    counts: Option<InboxCounts>,
    /// Age of the oldest waiting item, in seconds.
    oldest_seconds: Option<i64>,
    /// Reason why there are no counts: this user may not read the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Holder {
    owner: String,
    since: Timestamp,
}

/// Prints the state.
pub(crate) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let settings = settings::read()?;
    let now = Timestamp::now();
    let store = state::existing(&settings)?;
    let status = match &store {
        Some(store) => state::block_on(read(&settings, store, now))?,
        None => empty(&settings, now),
    };
    let mut output = Output::open();
    if args.json {
        output.json(&status)?;
    } else if store.is_none() {
        output.line(&state::none_yet(&settings))?;
    } else {
        print(&status, &mut output)?;
    }
    output.finish()
}

fn empty(settings: &Settings, now: Timestamp) -> Status {
    Status {
        state: settings.state_place(),
        now,
        cursor: None,
        lag_minutes: None,
        lease: None,
        totals: LedgerTotals::default(),
        gaps: Vec::new(),
        quotas: Totals::default(),
        hunted_until: None,
        rate_limited: Vec::new(),
        rejects: 0,
        posted: 0,
        inbox: Vec::new(),
        failures: Vec::new(),
    }
}

/// Reads the state.
pub(crate) async fn read(
    settings: &Settings,
    store: &Store,
    now: Timestamp,
) -> Result<Status, Failure> {
    let cursor = store.cursors.read(load::NAME).await.map_err(Failure::job)?;
    let cursor = cursor.map(Minute::from_unix_seconds);
    let holder = store.leases.holder(load::NAME, now).await.map_err(Failure::job)?;
    let today = utc_day(now);
    let rejects = Rejects::new(Arc::clone(&store.bundles)).list().await.map_err(Failure::job)?;
    let posted = store.bundles.list(posted::FOLDER).await.map_err(Failure::job)?;
    let limited = hunt::rate_limited(store).await.map_err(Failure::job)?;
    let hunted = store.cursors.read(hunt::NAME).await.map_err(Failure::job)?;
    Ok(Status {
        cursor,
        lag_minutes: cursor.map(|cursor| Minute::of(now).since(cursor)),
        lease: holder.map(|(owner, since)| Holder { owner, since }),
        totals: store.ledger.totals().await.map_err(Failure::job)?,
        gaps: store.ledger.gaps(GAPS_LISTED).await.map_err(Failure::job)?,
        quotas: Totals::of(&*store.quotas, today).await.map_err(Failure::job)?,
        hunted_until: hunted.and_then(|date| Timestamp::from_second(date).ok()),
        rate_limited: limited.map(|limited| limited.rulesets).unwrap_or_default(),
        rejects: rejects.len(),
        posted: posted.len(),
        inbox: inbox(settings, store, now).await?,
        failures: failures::last(store, FAILURES_LISTED).await.map_err(Failure::job)?,
        ..empty(settings, now)
    })
}

/// Counts the waiting items of each queue that exists.
async fn inbox(
    settings: &Settings,
    store: &Store,
    now: Timestamp,
) -> Result<Vec<Waiting>, Failure> {
    let is_local = settings.aws.is_none();
    let mut inbox = Vec::new();
    for (queue, url) in [
        (Queue::Query, &settings.inbox_queue),
        (Queue::Download, &settings.download_queue),
        (Queue::Minutes, &settings.minutes_queue),
    ] {
        if is_local || url.is_some() {
            // On AWS, a function's credentials are for its own queue. The rest of the status is shown without the other
            // queues.
            let (counts, error) = match store.inbox.counts(queue, now).await {
                Ok(counts) => (Some(counts), None),
                Err(error @ StoreError::Refused { .. }) => (None, Some(error.to_string())),
                Err(error) => return Err(Failure::job(error)),
            };
            let oldest = counts.and_then(|counts| counts.oldest);
            let oldest_seconds = oldest.map(|oldest| now.duration_since(oldest).as_secs());
            inbox.push(Waiting { queue, counts, oldest_seconds, error });
        }
    }
    Ok(inbox)
}

fn print_inbox(status: &Status, output: &mut Output) -> Result<(), Failure> {
    if !status.inbox.is_empty() {
        output.line("\ninbox")?;
    }
    let row = |Waiting { queue, counts, oldest_seconds, error }: &Waiting| {
        let Some(counts) = counts else {
            return [format!("  {}", queue.name()), error.clone().unwrap_or_default()];
        };
        let oldest = oldest_seconds.map(|age| format!(", the oldest for {age} s"));
        let waiting = format!(
            "{} waiting ({} due{}), {} in work, {} given up",
            counts.waiting,
            counts.due,
            oldest.unwrap_or_default(),
            counts.in_work,
            counts.buried
        );
        [format!("  {}", queue.name()), waiting]
    };
    output.table(&status.inbox.iter().map(row).collect::<Vec<_>>())?;
    if !status.failures.is_empty() {
        output.line("\nlast failures")?;
    }
    let row = |Failed { queue, id, subject, reason, at }: &Failed| {
        let what = if subject.sha256.is_empty() { id } else { &subject.sha256 };
        let Subject { source, category, .. } = subject;
        [
            format!("  {at:.0}"),
            queue.clone(),
            what.clone(),
            format!("{source} {category}"),
            reason.clone(),
        ]
    };
    output.table(&status.failures.iter().map(row).collect::<Vec<_>>())
}

fn print(status: &Status, output: &mut Output) -> Result<(), Failure> {
    let totals = &status.totals;
    let counts = &totals.counts;
    let cursor = match (status.cursor, status.lag_minutes) {
        (Some(cursor), Some(lag)) => format!("{cursor}, {lag} minutes behind now"),
        _ => "none: the feed was not loaded yet".into(),
    };
    let lease = match &status.lease {
        Some(holder) => format!("{} since {:.0}", holder.owner, holder.since),
        None => "free".into(),
    };
    let rows = [
        ("state", status.state.clone()),
        ("cursor", cursor),
        ("load lease", lease),
        (
            "minutes",
            format!(
                "{} loaded, {} loading, {} planned, {} gaps, {} given up",
                totals.loaded, totals.loading, totals.planned, totals.gaps, totals.buried
            ),
        ),
        (
            "records",
            format!(
                "{} read, {} filtered, {} rejected, {} values left out",
                counts.records, counts.filtered, counts.rejected, counts.bad_values
            ),
        ),
        (
            "events",
            format!("{} delivered, {} downloads requested", counts.delivered, counts.requests),
        ),
        ("rejects", format!("{} objects (`vt rejects list`)", status.rejects)),
        ("posted", format!("{} bodies wait for their delivery", status.posted)),
    ];
    output.table(&rows.map(|(name, value)| [name.to_owned(), value]))?;
    if !status.gaps.is_empty() {
        output.line("\ngaps")?;
        let rows: Vec<_> = status.gaps.iter().take(GAPS_PRINTED).map(gap).collect();
        output.table(&rows)?;
        let more = totals.gaps.saturating_sub(rows.len() as u64);
        if more > 0 {
            output.line(&format!("  and {more} more"))?;
        }
    }
    print_inbox(status, output)?;
    if let Some(date) = status.hunted_until {
        output.line(&format!("\nLivehunt: delivered up to {date:.0}"))?;
    }
    for ruleset in &status.rate_limited {
        output
            .line(&format!("Livehunt: {ruleset} is over its limit, so VirusTotal tells not all"))?;
    }
    let Totals { total, api_charged, pcaps, categories } = &status.quotas;
    if total + api_charged + pcaps > 0 {
        output.line("\ndownloads of today (UTC)")?;
        let sums = [("Total", total), ("API-charged", api_charged), ("PCAP", pcaps)];
        let sums = sums.map(|(name, n)| [format!("  {name}"), n.to_string()]);
        let row = |usage: &QuotaUsage| [format!("  {}", usage.category), usage.used.to_string()];
        let rows: Vec<_> = sums.into_iter().chain(categories.iter().map(row)).collect();
        output.table(&rows)?;
    }
    Ok(())
}

fn gap(row: &LedgerRow) -> [String; 4] {
    let minute = format!("  {}", row.minute);
    match &row.state {
        MinuteState::Gap { kind, reason, attempts, next_try } => [
            minute,
            format!("{kind:?}").to_lowercase(),
            format!("tried {attempts} times, next {next_try:.0}"),
            reason.clone(),
        ],
        other => [minute, format!("{other:?}").to_lowercase(), String::new(), String::new()],
    }
}
