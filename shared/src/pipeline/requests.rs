//! Download requests for delivered binaries, each posted once within the time that it is remembered.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;

use super::{DeliverError, Pipeline, RunLimits, prepare, publish::Delivery};
use crate::azul::{avro, dispatcher::Model, event::DownloadEvent};

/// Kind under which [`Memory`](crate::store::Memory) remembers download requests.
pub const REQUESTS: &str = "request";

/// Outcome of a request.
pub(super) struct Requested {
    /// Number of the line that the request is for.
    pub(super) line: u64,
    pub(super) request: DownloadEvent,
    pub(super) delivery: Delivery,
}

/// Ids of requests that are being posted, by any batch of any bundle.
#[derive(Default)]
pub(super) struct InFlightRequests(Mutex<BTreeSet<String>>);

/// Ids that one batch is posting. Dropping the guard removes them.
struct InFlightGuard<'a> {
    all: &'a InFlightRequests,
    ids: Vec<String>,
}

impl InFlightRequests {
    fn change<T>(&self, change: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl InFlightGuard<'_> {
    /// Adds an id. Returns false if it is being posted already.
    fn add(&mut self, id: &str) -> bool {
        let is_new = self.all.change(|all| all.insert(id.to_owned()));
        if is_new {
            self.ids.push(id.to_owned());
        }
        is_new
    }
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.all.change(|all| {
            for id in &self.ids {
                all.remove(id);
            }
        });
    }
}

impl Pipeline {
    /// Posts the download requests that were not posted lately: looks them up, posts them and remembers them.
    ///
    /// A request that another batch is posting is skipped. If that batch fails, its lines are delivered again, and the
    /// request with them.
    pub(super) async fn request(
        &self,
        wanted: Vec<(u64, DownloadEvent)>,
        now: Timestamp,
        limits: &RunLimits,
    ) -> Result<Vec<Requested>, DeliverError> {
        let memory = &self.store.memory;
        let mut own = InFlightGuard { all: &self.requesting, ids: Vec::new() };
        let mut new = Vec::new();
        for (line, request) in wanted {
            let id = format!("{} {}", request.entity.category, request.entity.hash);
            if own.add(&id) && !memory.knows(REQUESTS, &id, now).await? {
                new.push((line, id, request));
            }
        }
        let mut requested = Vec::with_capacity(new.len());
        while !new.is_empty() {
            let post: Vec<_> = new.drain(..new.len().min(prepare::BATCH_EVENTS)).collect();
            let events: Vec<Vec<u8>> = post
                .iter()
                .map(|(_, _, request)| {
                    let mut bytes = Vec::new();
                    avro::encode_download(request, self.model_version, &mut bytes);
                    bytes
                })
                .collect();
            let deliveries = self.publisher.publish(Model::Download, &events, limits).await?;
            let mut remember = Vec::new();
            for ((line, id, request), delivery) in post.into_iter().zip(deliveries) {
                if !matches!(delivery, Delivery::Rejected(_)) {
                    remember.push(id);
                }
                requested.push(Requested { line, request, delivery });
            }
            memory.remember_all(REQUESTS, &remember, self.request_memory, now).await?;
        }
        Ok(requested)
    }
}
