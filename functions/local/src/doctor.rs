//! `vt doctor`: checks the settings, the services and the state, and prints a sentence for each check: its result, and
//! the remedy for a failure.

use std::os::unix::fs::MetadataExt as _;

use azul_vt::{
    azul::dispatcher::Pong,
    errors::chain,
    http_client::HttpSetupError,
    minute::Minute,
    pipeline::assemble,
    selection::RuleErrors,
    settings::Settings,
    store,
    virustotal::{CurrentUser, VirusTotal, VirusTotalError},
    webhook::Secrets,
};
use jiff::Timestamp;

use crate::{
    failure::{Failure, one_line},
    output::Output,
    settings, state,
};

/// Largest good difference between the clocks, in seconds. A larger one is wrong, because the feed is asked for by the
/// minute.
const SKEW_SECONDS: u64 = 60;

/// Result of a check.
enum Finding {
    /// The check passed; the text says what was found.
    Good(String),
    /// The check failed; the text says what is wrong and what to do.
    Bad(String),
}

use Finding::{Bad, Good};

/// Runs all checks. A check that fails does not keep the others from running.
pub(crate) fn run() -> Result<(), Failure> {
    let settings = match settings::read() {
        Ok(settings) => settings,
        // No other check can run without the settings.
        Err(Failure::Usage(error)) => {
            return print(&[("settings", Bad(one_line(error.as_ref())))]);
        }
        Err(other) => return Err(other),
    };
    let findings = state::block_on(async { Ok(check(&settings).await) })?;
    print(&findings)
}

fn print(findings: &[(&str, Finding)]) -> Result<(), Failure> {
    let mut output = Output::open();
    let mut failed = false;
    for (name, finding) in findings {
        match finding {
            Good(sentence) => output.line(&format!("ok    {name}: {sentence}"))?,
            Bad(sentence) => {
                failed = true;
                output.line(&format!("FAIL  {name}: {sentence}"))?;
            }
        }
    }
    output.finish()?;
    if failed { Err(Failure::Said(1)) } else { Ok(()) }
}

/// Runs the checks and returns their results, in the order in which an operator would look.
async fn check(settings: &Settings) -> Vec<(&'static str, Finding)> {
    let mut findings = vec![("settings", usable(settings))];
    let mut clocks = Vec::new();
    match virustotal(settings) {
        Ok(client) => {
            findings.push(("VirusTotal key", key(client.current_user().await)));
            let minute = Minute::of(Timestamp::now()).plus(-settings.feed_lag_minutes);
            let asked = client.probe_minute(minute).await;
            if let Ok(date) = asked.as_ref().map(|probe| probe.date) {
                clocks.push(("VirusTotal", date, Timestamp::now()));
            }
            findings.push(("feed", feed(minute, asked.map(|_| ()))));
        }
        Err(sentence) => findings.push(("VirusTotal key", Bad(sentence))),
    }
    match assemble::dispatcher(settings) {
        Ok(dispatcher) => {
            let pong = dispatcher.ping().await;
            if let Ok(pong) = &pong {
                clocks.push(("the dispatcher", pong.date, Timestamp::now()));
            }
            let pong = pong.map_err(|error| chain(&error));
            findings.push(("dispatcher", answered(settings, pong)));
        }
        Err(error) => findings.push(("dispatcher", Bad(chain(&error)))),
    }
    findings.push(("rules", rules(settings).await));
    findings.push(("clock", clock(&clocks)));
    findings.push(("state", writable(settings).await));
    findings
}

/// Checks the parts of the settings that reading them does not check: names of handlers, and secrets.
fn usable(settings: &Settings) -> Finding {
    if let Err(error) = assemble::mapper(settings, false) {
        return Bad(format!("HANDLERS: {error}"));
    }
    let lookup = &settings.lookup;
    for (name, source) in [
        ("INGEST_SECRETS", settings.ingest_secrets.as_ref()),
        ("WEBHOOK_SECRETS", lookup.webhook_secrets.as_ref()),
    ] {
        let secrets = settings.secret(name, source).map(Secrets::new).transpose();
        if let Err(error) = secrets {
            return Bad(format!("{name}: {error}"));
        }
    }
    let set = settings.shown.iter().filter(|shown| shown.source != "default").count();
    Good(format!("{set} are set, the others have their defaults; `vt settings` shows them"))
}

fn virustotal(settings: &Settings) -> Result<VirusTotal, String> {
    if settings.virustotal_apikey.is_none() {
        return Err(
            "VIRUSTOTAL_APIKEY is not set: `vt load` needs the API key of an account with the \
                    file feed licence (`vt ingest` needs none)"
                .into(),
        );
    }
    assemble::virustotal(settings).map_err(|error: HttpSetupError| chain(&error))
}

fn key(user: Result<CurrentUser, VirusTotalError>) -> Finding {
    match user {
        Ok(user) => {
            let granted: Vec<&str> = user
                .privileges
                .iter()
                .filter(|(_, privilege)| privilege.granted)
                .map(|(name, _)| name.as_str())
                .collect();
            let granted =
                if granted.is_empty() { "none granted".into() } else { granted.join(", ") };
            Good(format!("it is {}'s; privileges: {granted}", user.id))
        }
        // Not every VirusTotal tells whose key it is. The check of the feed minute decides whether the key is good.
        Err(VirusTotalError::Missing(_) | VirusTotalError::BadRequest(_)) => Good(
            "VirusTotal does not say whose it is; the feed minute tells whether it counts".into(),
        ),
        Err(error) => Bad(chain(&error)),
    }
}

fn feed(minute: Minute, asked: Result<(), VirusTotalError>) -> Finding {
    match asked {
        Ok(()) => Good(format!("VirusTotal gives minute {minute}")),
        Err(VirusTotalError::Missing(_)) => Good(format!(
            "the key may read it, though VirusTotal has no bundle for minute {minute}; now and then a \
             minute is missing"
        )),
        Err(VirusTotalError::NotAvailableYet(_)) => Good(format!(
            "the key may read it, though minute {minute} is not available yet; FEED_LAG_MINUTES of 60 or \
             more asks later"
        )),
        Err(error) => Bad(chain(&error)),
    }
}

fn answered(settings: &Settings, pong: Result<Pong, String>) -> Finding {
    // Only host and port are shown: the URL may hold a user name and a password.
    let host = settings.events_url.host_str().unwrap_or_default();
    let port = settings.events_url.port_or_known_default().unwrap_or_default();
    match pong {
        Ok(pong) if pong.is_dispatcher => Good(format!("{host}:{port} is Azul's dispatcher")),
        Ok(pong) => Bad(format!(
            "{host}:{port} answers {} `{}`, not as Azul's dispatcher does: check PLUGIN_EVENTS_URL",
            pong.status, pong.greeting
        )),
        Err(error) => Bad(format!(
            "{error}: check PLUGIN_EVENTS_URL (now {host}:{port}) and that the dispatcher runs"
        )),
    }
}

async fn rules(settings: &Settings) -> Finding {
    let root = &settings.rules_root;
    let source = match assemble::rule_source(settings, root).await {
        Ok(source) => source,
        Err(error) => return Bad(chain(&error)),
    };
    let loaded = match source.list().await {
        Ok(seen) => source.load(seen.as_ref(), settings.rules_lenient).await,
        Err(error) => Err(RuleErrors(vec![error])),
    };
    match loaded {
        Ok(loaded) if loaded.missing => {
            Good(format!("RULES_ROOT={root} holds no rule files: nothing is selected for download"))
        }
        Ok(loaded) if loaded.errors.is_empty() => Good(format!("{} in {root}", loaded.rules.len())),
        Ok(loaded) => Good(format!(
            "{} in {root}; {} are bad and passed over (RULES_LENIENT); `vt rules check` names them",
            loaded.rules.len(),
            loaded.errors.len()
        )),
        Err(errors) => {
            let first = errors.0.first().map_or_else(String::new, |error| one_line(error));
            Bad(format!(
                "{} errors, the first: {first}; `vt rules check {root}` names all",
                errors.0.len()
            ))
        }
    }
}

/// Compares this machine's clock with the times that servers reported. The last value of each entry is the local time
/// at which the report came.
fn clock(seen: &[(&str, Option<Timestamp>, Timestamp)]) -> Finding {
    let told: Vec<(&str, i64)> = seen
        .iter()
        .filter_map(|(who, date, at)| Some((*who, at.as_second() - date.as_ref()?.as_second())))
        .collect();
    if told.is_empty() {
        return Good("no server told its time, so this machine's was not compared".into());
    }
    let off = |seconds: i64| match seconds {
        0 => "equal to".to_owned(),
        s if s > 0 => format!("{s} s ahead of"),
        s => format!("{} s behind", s.unsigned_abs()),
    };
    let sentence = told
        .iter()
        .map(|(who, seconds)| format!("{} {who}'s", off(*seconds)))
        .collect::<Vec<_>>()
        .join(", ");
    if told.iter().all(|(_, seconds)| seconds.unsigned_abs() <= SKEW_SECONDS) {
        Good(format!("this machine's is {sentence}"))
    } else {
        Bad(format!("this machine's is {sentence}: set it by NTP"))
    }
}

async fn writable(settings: &Settings) -> Finding {
    let place = settings.state_place();
    // Only the owner of STATEDIR writes there, and the first run makes it, so any other user only reads it.
    if settings.aws.is_none()
        && let Some(finding) = looked_at(settings).await
    {
        return finding;
    }
    let key = format!("doctor/{}", std::process::id());
    let tried = async {
        let store = store::open(&settings.state_options()).await?;
        store.bundles.put(&key, b"written by vt doctor").await?;
        store.bundles.remove(&key).await?;
        store.cursors.read(load::NAME).await
    };
    match tried.await {
        Ok(_) => Good(format!("{place} can be written")),
        Err(error) => Bad(chain(&error)),
    }
}

/// Checks STATEDIR without writing. Returns `None` if the directory belongs to this user, who can try to write.
async fn looked_at(settings: &Settings) -> Option<Finding> {
    let (place, dir) = (settings.state_place(), &settings.state_dir);
    let me = std::fs::metadata("/proc/self").ok()?.uid();
    let Ok(found) = std::fs::metadata(dir) else {
        let above = dir.ancestors().skip(1).find(|above| above.exists())?;
        // A directory that root makes would be of no use to the service's user.
        let makes_none = me == 0 && above.is_dir();
        return makes_none.then(|| Good(format!("{place} is not there: `vt load` makes it")));
    };
    if found.uid() == me {
        return None;
    }
    Some(match store::open_read_only(&settings.state_options()).await {
        Ok(_) => Good(format!(
            "{place} can be read; whether it can be written is for its own user (uid {}) to find out",
            found.uid()
        )),
        Err(error) => Bad(chain(&error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_good_within_a_minute_of_every_server() {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let earlier = |seconds: i64| Timestamp::from_second(1_800_000_000 - seconds).ok();
        let seen = [("A", earlier(60), at), ("B", earlier(-60), at), ("C", None, at)];
        assert!(matches!(clock(&seen), Good(text) if text.contains("60 s behind B")));
        let seen = [("A", earlier(0), at), ("B", earlier(61), at)];
        assert!(matches!(clock(&seen), Bad(text) if text.contains("61 s ahead of B")));
        assert!(matches!(clock(&[("C", None, at)]), Good(_)));
    }
}
