//! Limits the open connections of one address. At the limit, a new connection replaces the one that has been idle
//! longest.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// All open connections.
pub(super) struct Connections {
    most: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// Connections by number, in the order in which they were accepted.
    all: BTreeMap<u64, Arc<Connection>>,
    next: u64,
}

/// The part of a connection that decides when it is closed.
struct Connection {
    /// Time since which no request is worked: its head is incomplete, or its answer is not taken yet. `None` while one
    /// is worked.
    idle_since: Mutex<Option<Instant>>,
    close: CancellationToken,
}

/// A connection's place among the open ones. Dropping it frees the place.
pub(super) struct Place {
    connections: Arc<Connections>,
    id: u64,
    connection: Arc<Connection>,
}

/// Guard of a connection: the connection counts as at work until the guard is dropped.
pub(super) struct AtWork(Arc<Connection>);

impl Connections {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    /// Takes a place for a new connection. If all are taken, the connection that has been idle longest is closed;
    /// `None` if none is idle. The new connection ends with `all_end` at the latest.
    pub(super) fn admit(self: &Arc<Self>, all_end: &CancellationToken) -> Option<Place> {
        let mut open = locked(&self.open);
        if open.all.len() >= self.most && !open.close_longest_idle() {
            return None;
        }
        let connection = Arc::new(Connection {
            idle_since: Mutex::new(Some(Instant::now())),
            close: all_end.child_token(),
        });
        let id = open.next;
        open.next += 1;
        open.all.insert(id, Arc::clone(&connection));
        Some(Place { connections: Arc::clone(self), id, connection })
    }

    /// Closes the connection that has been idle longest.
    pub(super) fn make_room(&self) {
        locked(&self.open).close_longest_idle();
    }
}

impl Open {
    fn close_longest_idle(&mut self) -> bool {
        let idle = |(id, connection): (&u64, &Arc<Connection>)| {
            locked(&connection.idle_since).map(|since| (since, *id))
        };
        let Some((_, id)) = self.all.iter().filter_map(idle).min() else { return false };
        if let Some(connection) = self.all.remove(&id) {
            connection.close.cancel();
        }
        true
    }
}

impl Place {
    /// Marks the connection as at work until the guard is dropped. It is called when a request's head is complete.
    pub(super) fn begin(&self) -> AtWork {
        *locked(&self.connection.idle_since) = None;
        AtWork(Arc::clone(&self.connection))
    }

    /// Waits until the connection has to end: it made room for another one, or was idle for `longest`.
    pub(super) async fn over(&self, longest: Duration) {
        let idle_too_long = async {
            loop {
                let since = *locked(&self.connection.idle_since);
                let deadline = since.unwrap_or_else(Instant::now) + longest;
                sleep_until(deadline).await;
                if since.is_some() && since == *locked(&self.connection.idle_since) {
                    return;
                }
            }
        };
        tokio::select! {
            () = self.connection.close.cancelled() => {}
            () = idle_too_long => {}
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.connections.open).all.remove(&self.id);
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        *locked(&self.0.idle_since) = Some(Instant::now());
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_over(place: &Place) -> bool {
        place.connection.close.is_cancelled()
    }

    #[test]
    fn the_longest_idle_connection_makes_room_and_one_at_work_never_does() {
        let (connections, end) = (Connections::new(2), CancellationToken::new());
        let one = connections.admit(&end).unwrap();
        let other = connections.admit(&end).unwrap();
        let at_work = one.begin();
        let third = connections.admit(&end).unwrap();
        assert_eq!((is_over(&one), is_over(&other), is_over(&third)), (false, true, false));
        let third_at_work = third.begin();
        assert!(connections.admit(&end).is_none());
        drop((at_work, third_at_work));
        let _fourth = connections.admit(&end).unwrap();
        assert_eq!((is_over(&one), is_over(&third)), (true, false));
        drop(third);
        assert_eq!(locked(&connections.open).all.len(), 1);
    }
}
