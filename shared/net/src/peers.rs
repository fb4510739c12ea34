//! Tracks whether VirusTotal, the dispatcher and AWS answer, and how far their clocks are from the local clock.
//!
//! Every client of a process reports the outcome of its requests here. So outages can be named, and nothing is given up
//! or deleted unless a peer confirms the local clock.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use reqwest::header::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::http_client;

/// Largest difference between a peer's clock and the local clock at which both count as equal.
pub const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);
/// Returns the latest time that a correct clock can have written by `now`: [`TOLERANCE`] after it. A later time was
/// written by a clock that was wrong.
pub fn latest_written(now: Timestamp) -> Timestamp {
    now.saturating_add(TOLERANCE).unwrap_or(Timestamp::MAX)
}

/// Time for which a peer's `Date` is used. While anything works, peers answer far more often.
const FRESH: Duration = Duration::from_hours(1);
/// Interval at which the log repeats that clocks differ.
const SAY_EVERY: Duration = Duration::from_hours(1);
/// Length of an outage that makes the process unhealthy. Shorter outages pass by themselves.
const OUT: Duration = Duration::from_mins(1);
/// Most characters of an error that are kept.
const MAX_ERROR_CHARS: usize = 500;

/// A service that this program depends on.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// VirusTotal's API.
    #[default]
    #[serde(rename = "virustotal")]
    VirusTotal,
    /// Azul's dispatcher.
    Dispatcher,
    /// AWS, if it holds the state.
    State,
}

impl Peer {
    /// Returns the name of the peer for a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::VirusTotal => "VirusTotal",
            Self::Dispatcher => "the dispatcher",
            Self::State => "AWS",
        }
    }
}

/// A peer that does not answer, or answers nothing but server errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerOutage {
    /// Time of the first request without an answer.
    pub since: Timestamp,
    /// Error of the last request.
    pub error: String,
    /// Length of the outage so far.
    #[serde(skip)]
    pub lasts: Duration,
}

impl PeerOutage {
    /// Whether the outage is longer than those that pass by themselves.
    pub fn is_long(&self) -> bool {
        self.lasts > OUT
    }
}

/// The result of comparing the local clock with the peers' clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockCheck {
    /// No peer has sent its time within the last hour.
    Unconfirmed,
    /// Every peer that has sent its time agrees with the local clock.
    Confirmed,
    /// A peer's clock and the local clock differ by more than [`TOLERANCE`].
    Apart {
        /// The peer whose clock differs most.
        peer: Peer,
        /// Lead of the local clock over the peer's clock; negative if the local clock is behind.
        ahead: SignedDuration,
    },
}

impl fmt::Display for ClockCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unconfirmed => f.write_str("no peer has said what time it is"),
            Self::Confirmed => {
                write!(f, "it agrees with the peers' within {} s", TOLERANCE.as_secs())
            }
            Self::Apart { peer, ahead } => {
                let (seconds, name) = (ahead.abs().as_secs(), peer.name());
                let side = if ahead.is_negative() { "behind" } else { "ahead of" };
                write!(f, "it is {seconds} s {side} that of {name}: set this machine's clock (NTP)")
            }
        }
    }
}

/// The state of all peers of a process. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Peers(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    peers: BTreeMap<Peer, Reached>,
    said: Option<Instant>,
}

#[derive(Debug, Default)]
struct Reached {
    /// The last `Date` of the peer, and the time at which it came.
    date: Option<(Timestamp, Instant)>,
    out: Option<Out>,
}

#[derive(Debug)]
struct Out {
    since: (Timestamp, Instant),
    error: String,
}

impl Reached {
    /// Returns the current time by the peer's clock; `None` if its last `Date` is too old.
    fn now(&self) -> Option<Timestamp> {
        let (date, at) = self.date?;
        let passed = at.elapsed();
        if passed > FRESH {
            return None;
        }
        date.checked_add(SignedDuration::try_from(passed).ok()?).ok()
    }
}

impl Peers {
    /// Notes that a peer answered, and reads its clock from `headers`.
    pub fn answered(&self, peer: Peer, headers: &HeaderMap) {
        self.dated(peer, headers);
        self.known().peers.entry(peer).or_default().out = None;
    }

    /// Notes that a peer gave no answer or a server error. `error` says which, without secrets.
    pub fn failed(&self, peer: Peer, error: &str) {
        let mut known = self.known();
        let out = &mut known.peers.entry(peer).or_default().out;
        let since =
            out.as_ref().map_or_else(|| (Timestamp::now(), Instant::now()), |out| out.since);
        let error = error.chars().take(MAX_ERROR_CHARS).collect();
        *out = Some(Out { since, error });
    }

    /// Reads a peer's clock from the headers of an answer of any status.
    pub fn dated(&self, peer: Peer, headers: &HeaderMap) {
        let Some(date) = http_client::date(headers) else { return };
        let mut known = self.known();
        known.peers.entry(peer).or_default().date = Some((date, Instant::now()));
        let ahead = Timestamp::now().duration_since(date);
        if ahead.abs() > TOLERANCE && known.said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            known.said = Some(Instant::now());
            drop(known);
            tracing::error!(
                ahead_s = ahead.as_secs(),
                "the clock of this machine and that of {} are apart: until they agree nothing is given up or \
                 deleted; set this machine's clock (NTP)",
                peer.name()
            );
        }
    }

    /// Returns the peer's outage; `None` if it is not out.
    pub fn outage(&self, peer: Peer) -> Option<PeerOutage> {
        self.known().peers.get(&peer)?.outage()
    }

    /// Returns the outages of all peers.
    pub fn outages(&self) -> BTreeMap<Peer, PeerOutage> {
        let known = self.known();
        known.peers.iter().filter_map(|(peer, reached)| Some((*peer, reached.outage()?))).collect()
    }

    /// Compares the local clock, which says `now`, with those of all peers. The clock that differs most decides.
    pub fn clock(&self, now: Timestamp) -> ClockCheck {
        let known = self.known();
        let ahead =
            |(peer, reached): (&Peer, &Reached)| Some((*peer, now.duration_since(reached.now()?)));
        let furthest = known.peers.iter().filter_map(ahead).max_by_key(|(_, ahead)| ahead.abs());
        match furthest {
            None => ClockCheck::Unconfirmed,
            Some((peer, ahead)) if ahead.abs() > TOLERANCE => ClockCheck::Apart { peer, ahead },
            Some(_) => ClockCheck::Confirmed,
        }
    }

    /// Whether a peer confirms the local clock, which says `now`, and no peer contradicts it.
    pub fn confirm(&self, now: Timestamp) -> bool {
        self.clock(now) == ClockCheck::Confirmed
    }

    /// As [`Peers::confirm`], but `peer` itself has to confirm the local clock.
    pub fn confirms(&self, peer: Peer, now: Timestamp) -> bool {
        let is_known = self.known().peers.get(&peer).and_then(Reached::now).is_some();
        is_known && self.confirm(now)
    }

    /// Notes that this process asks VirusTotal. From then on the dispatcher alone does not make the clock good enough to
    /// delete by.
    pub fn uses_virustotal(&self) {
        self.known().peers.entry(Peer::VirusTotal).or_default();
    }

    /// Whether the local clock, which says `now`, may decide that something is old enough to be deleted: it is
    /// confirmed, and not by the dispatcher alone. The dispatcher may run on this machine and share its wrong clock,
    /// and a clock that is far off keeps VirusTotal from contradicting, because its certificate does not count then.
    pub fn may_delete(&self, now: Timestamp) -> bool {
        let has_other = {
            let known = self.known();
            let is_used = known.peers.contains_key(&Peer::VirusTotal);
            let mut others = known.peers.iter().filter(|(peer, _)| **peer != Peer::Dispatcher);
            !is_used || others.any(|(_, reached)| reached.now().is_some())
        };
        has_other && self.confirm(now)
    }

    /// Returns the local time `now`, or the earliest time of a peer if the local clock is ahead of it by more than
    /// [`TOLERANCE`]. So progress never passes the time of a peer.
    pub fn earliest(&self, now: Timestamp) -> Timestamp {
        let earliest = self.known().peers.values().filter_map(Reached::now).min();
        earliest.filter(|theirs| now.duration_since(*theirs) > TOLERANCE).unwrap_or(now)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reached {
    fn outage(&self) -> Option<PeerOutage> {
        let Out { since: (since, at), error } = self.out.as_ref()?;
        Some(PeerOutage { since: *since, error: error.clone(), lasts: at.elapsed() })
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::{DATE, HeaderValue};

    use super::*;

    const NOW: &str = "2026-11-24T10:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn dated(text: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(DATE, HeaderValue::from_static(text))])
    }

    #[test]
    fn a_clock_is_confirmed_only_where_a_peer_agrees_and_none_contradicts() {
        let peers = Peers::default();
        assert_eq!(peers.clock(now()), ClockCheck::Unconfirmed);
        peers.answered(Peer::VirusTotal, &HeaderMap::new());
        assert_eq!(peers.clock(now()), ClockCheck::Unconfirmed);
        peers.answered(Peer::VirusTotal, &dated("Tue, 24 Nov 2026 09:58:00 GMT"));
        assert!(peers.confirm(now()));
        let later = now() + SignedDuration::from_hours(20 * 24);
        assert!(!peers.confirm(later));
        assert!(matches!(
            peers.clock(later),
            ClockCheck::Apart { peer: Peer::VirusTotal, ahead } if ahead.as_hours() == 20 * 24
        ));
        // A peer that contradicts outweighs those that agree, whichever is right.
        peers.answered(Peer::Dispatcher, &dated("Fri, 20 Nov 2026 10:00:00 GMT"));
        assert!(matches!(peers.clock(now()), ClockCheck::Apart { peer: Peer::Dispatcher, .. }));
        peers.answered(Peer::Dispatcher, &dated("Tue, 24 Nov 2026 10:00:30 GMT"));
        assert!(peers.confirm(now()));
    }

    #[test]
    fn the_dispatcher_alone_lets_nothing_be_deleted_where_virustotal_is_asked() {
        let peers = Peers::default();
        let date = || dated("Tue, 24 Nov 2026 10:00:00 GMT");
        assert!(!peers.may_delete(now()));
        peers.answered(Peer::Dispatcher, &date());
        assert!(peers.may_delete(now()));
        peers.uses_virustotal();
        assert!(peers.confirm(now()) && !peers.may_delete(now()));
        peers.failed(Peer::VirusTotal, "the certificate is not valid yet");
        assert!(!peers.may_delete(now()));
        peers.answered(Peer::State, &date());
        assert!(peers.may_delete(now()));
    }

    #[test]
    fn the_earliest_time_is_the_peers_where_our_clock_is_ahead() {
        let peers = Peers::default();
        assert_eq!(peers.earliest(now()), now());
        peers.answered(Peer::VirusTotal, &dated("Tue, 24 Nov 2026 10:00:00 GMT"));
        assert_eq!(peers.earliest(now()), now());
        let behind = now() - SignedDuration::from_hours(24);
        assert_eq!(peers.earliest(behind), behind);
        let ahead = now() + SignedDuration::from_hours(24);
        let earliest = peers.earliest(ahead);
        assert!(earliest.duration_since(now()) < SignedDuration::from_mins(1));
    }

    #[test]
    fn an_outage_begins_with_the_first_failure_and_ends_with_an_answer() {
        let peers = Peers::default();
        assert_eq!(peers.outages(), BTreeMap::new());
        peers.failed(Peer::Dispatcher, "connection refused");
        let first = peers.outage(Peer::Dispatcher).unwrap();
        assert!(!first.is_long());
        peers.failed(Peer::Dispatcher, &"timeout".repeat(1000));
        let second = peers.outage(Peer::Dispatcher).unwrap();
        assert_eq!(second.since, first.since);
        assert!(second.error.starts_with("timeout") && second.error.len() <= MAX_ERROR_CHARS);
        assert!(PeerOutage { lasts: Duration::from_secs(61), ..second }.is_long());
        peers.answered(Peer::Dispatcher, &HeaderMap::new());
        assert_eq!(peers.outages(), BTreeMap::new());
    }
}
