//! Which rulesets of Livehunt match more than they may: VirusTotal tells not all of their hits then.

use azul_vt::{
    errors::chain,
    pipeline::Limits,
    store::{BUDGET, Store, StoreError},
    virustotal::{Ruleset, asks},
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Hunt, HuntError, Report};

/// How often it is looked.
const LOOK_AT_RULESETS: SignedDuration = SignedDuration::from_hours(1);
/// Where the outcome is kept for `vt status`.
const RULESETS: &str = "hunt/rulesets.json";
/// Pages of rulesets that are read at most: a thousand rulesets.
const MOST_PAGES: usize = 25;

/// Which rulesets matched more than they may, and when that was looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RateLimited {
    /// When.
    pub looked_at: Timestamp,
    /// Their names.
    pub rulesets: Vec<String>,
}

impl Hunt {
    /// Looks, at most once an hour, which rulesets match more than they may. What goes wrong is a line in the log.
    pub(crate) async fn look_at_rulesets(
        &self,
        limits: &Limits,
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

    /// The rulesets, as far as they can be had now; `None` where not one page of them can.
    async fn rulesets(&self, limits: &Limits) -> Result<Option<Vec<Ruleset>>, HuntError> {
        let windows = &self.settings.lookup.windows;
        let (mut rulesets, mut cursor) = (None::<Vec<Ruleset>>, None::<String>);
        for _ in 0..MOST_PAGES {
            let now = self.clock.now();
            if asks::grant(&self.store, windows, now).await?.is_some() {
                break;
            }
            let page = match limits.bound(self.virustotal.rulesets(cursor.as_deref())).await {
                None => break,
                Some(Ok(page)) => page,
                Some(Err(error)) => {
                    tracing::warn!(
                        error = chain(&error),
                        "not all rulesets could be looked at for their limits"
                    );
                    if !asks::ends_run(&self.store, BUDGET, &error, now).await? {
                        asks::used_up(&self.store, &error, now).await?;
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

/// Which rulesets matched more than they may, as far as a run found out; `None`: no run did.
///
/// # Errors
/// What the state gives.
pub async fn rate_limited(store: &Store) -> Result<Option<RateLimited>, StoreError> {
    // What cannot be read is found out anew.
    let text = store.bundles.read(RULESETS).await?;
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}
