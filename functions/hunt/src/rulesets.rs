//! Finds the rulesets of Livehunt that match more than their daily limit. VirusTotal reports only a part of their hits.

use azul_vt::{
    errors::chain,
    pipeline::RunLimits,
    store::{BUDGET, Store, StoreError},
    virustotal::{Ruleset, request_budget},
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Hunt, HuntError, Report};

/// Interval between two checks of the rulesets.
const LOOK_AT_RULESETS: SignedDuration = SignedDuration::from_hours(1);
/// Key of the object that keeps the result for `vt status`.
const RULESETS: &str = "hunt/rulesets.json";
/// Most pages of rulesets that are read: 25 pages of 40 are a thousand rulesets.
const MAX_PAGES: usize = 25;

/// Rulesets that matched more than their daily limit, and the time of the check.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RateLimited {
    /// Time of the check.
    pub looked_at: Timestamp,
    /// Names of the rulesets.
    pub rulesets: Vec<String>,
}

impl Hunt {
    /// Checks, at most once an hour, which rulesets match more than their limit. A failed request to VirusTotal is only
    /// logged.
    pub(crate) async fn look_at_rulesets(
        &self,
        limits: &RunLimits,
        report: &mut Report,
    ) -> Result<(), HuntError> {
        let (memory, now) = (&self.store.memory, self.clock.now());
        if !memory.remember("housekeeping", RULESETS, LOOK_AT_RULESETS, now).await? {
            let known = rate_limited(&self.store).await?;
            report.rate_limited = known.map(|known| known.rulesets).unwrap_or_default();
            return Ok(());
        }
        let Some(rulesets) = self.rulesets(limits).await? else { return Ok(()) };
        let limited = rulesets.into_iter().filter(|ruleset| ruleset.rate_limited);
        report.rate_limited = limited.map(|ruleset| ruleset.name).collect();
        for ruleset in &report.rate_limited {
            tracing::warn!(ruleset, "matches more than its limit a day: VirusTotal tells not all");
        }
        let kept = RateLimited { looked_at: now, rulesets: report.rate_limited.clone() };
        let text = serde_json::to_vec(&kept).unwrap_or_default();
        Ok(self.store.bundles.put(RULESETS, &text).await?)
    }

    /// Reads as many rulesets as possible now. `None`: not even one page could be read.
    async fn rulesets(&self, limits: &RunLimits) -> Result<Option<Vec<Ruleset>>, HuntError> {
        let windows = &self.settings.lookup.windows;
        let (mut rulesets, mut cursor) = (None::<Vec<Ruleset>>, None::<String>);
        for _ in 0..MAX_PAGES {
            let now = self.clock.now();
            if request_budget::acquire(&self.store, windows, now).await?.is_some() {
                break;
            }
            let page = match limits.run_until(self.virustotal.rulesets(cursor.as_deref())).await {
                None => break,
                Some(Ok(page)) => page,
                Some(Err(error)) => {
                    tracing::warn!(
                        error = chain(&error),
                        "not all rulesets could be looked at for their limits"
                    );
                    if !request_budget::pause_if_wait_is_long(&self.store, BUDGET, &error, now)
                        .await?
                    {
                        request_budget::note_rate_limited(&self.store, &error, now).await?;
                    }
                    return Ok(rulesets);
                }
            };
            if page.unreadable > 0 {
                let count = page.unreadable;
                tracing::warn!(count, "rulesets of Livehunt cannot be read");
            }
            rulesets.get_or_insert_default().extend(page.rulesets);
            if page.cursor.is_none() || page.cursor == cursor {
                return Ok(rulesets);
            }
            cursor = page.cursor;
        }
        let count = rulesets.as_ref().map_or(0, Vec::len);
        tracing::warn!(
            count,
            "only so many rulesets were looked at for their limits; there are more"
        );
        Ok(rulesets)
    }
}

/// Returns the rulesets that matched more than their limit, as the last check found them; `None` if there was no check.
///
/// # Errors
/// [`StoreError`] if the state cannot be read.
pub async fn rate_limited(store: &Store) -> Result<Option<RateLimited>, StoreError> {
    // An object that cannot be parsed counts as absent; the next check replaces it.
    let text = store.bundles.read(RULESETS).await?;
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}
