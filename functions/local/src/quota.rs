//! `vt quota`: how many requests of VirusTotal, and how many downloads, are used and left.

use azul_vt::{
    pipeline::assemble,
    settings::Settings,
    store::{
        BUDGET, Store,
        budget::WindowUsage,
        totals::{Totals, utc_day},
    },
    virustotal::ApiQuota,
};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    cli::QuotaArgs,
    failure::{Failure, say},
    output::Output,
    settings, state,
};

/// The quotas as `--json` prints them.
#[derive(Debug, Default, Serialize)]
struct Quota {
    /// Requests that this program made, by the windows of `VT_REQUESTS_PER_…`.
    requests: Vec<WindowUsage>,
    /// Quotas of the key's user and group, as VirusTotal reports them.
    virustotal: Vec<ApiQuota>,
    /// Downloads of today (UTC).
    downloads: Totals,
}

/// Runs `vt quota`.
pub(crate) fn run(args: &QuotaArgs) -> Result<(), Failure> {
    let settings = settings::read()?;
    let store = state::existing(&settings)?;
    let quota = state::block_on(read(&settings, store.as_ref()))?;
    let mut output = Output::open();
    if args.json {
        output.json(&quota)?;
    } else {
        print(&quota, &mut output)?;
    }
    output.finish()
}

async fn read(settings: &Settings, store: Option<&Store>) -> Result<Quota, Failure> {
    let now = Timestamp::now();
    let mut quota = Quota::default();
    if let Some(store) = store {
        let windows = &settings.lookup.windows;
        quota.requests = store.budget.usage(BUDGET, windows, now).await.map_err(Failure::job)?;
        quota.downloads = Totals::of(&*store.quotas, utc_day(now)).await.map_err(Failure::job)?;
    }
    if settings.virustotal_apikey.is_some() {
        let virustotal = assemble::virustotal(settings).map_err(Failure::usage)?;
        // Not every key may ask VirusTotal, and the local counts are worth printing without its answer.
        match virustotal.allowances().await {
            Ok(allowances) => quota.virustotal = allowances,
            Err(error) => {
                say(&format!("VirusTotal tells no quotas: {}", azul_vt::errors::chain(&error)));
            }
        }
    }
    Ok(quota)
}

fn print(quota: &Quota, output: &mut Output) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for usage in &quota.requests {
        let name = format!("requests in the last {}", usage.window.name);
        rows.push([name, format!("{} of {}", usage.used, usage.window.limit)]);
    }
    for allowance in &quota.virustotal {
        let name = format!("VirusTotal {} ({})", allowance.name, allowance.of);
        rows.push([name, format!("{} of {}", allowance.used, allowance.allowed)]);
    }
    let Totals { total, api_charged, pcaps, categories } = &quota.downloads;
    if total + api_charged + pcaps > 0 {
        rows.push(["downloads today".to_owned(), total.to_string()]);
        rows.push(["downloads today that cost quota".to_owned(), api_charged.to_string()]);
        rows.push(["network captures today".to_owned(), pcaps.to_string()]);
    }
    for usage in categories {
        rows.push([format!("downloads today {}", usage.category), usage.used.to_string()]);
    }
    if rows.is_empty() {
        return output.line("nothing is limited, and nothing is used");
    }
    output.table(&rows)
}
