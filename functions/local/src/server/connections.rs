//! Limits the open connections of one address, and how many of them may post. At a limit, a new connection or post
//! replaces the one that has been silent longest.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// All open connections.
pub(super) struct Connections {
    most: usize,
    most_posts: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// Connections by number, in the order in which they were accepted.
    all: BTreeMap<u64, Arc<Connection>>,
    /// Numbers of the open connections whose request is a post.
    posting: BTreeSet<u64>,
    next: u64,
}

/// The part of a connection that decides when it is closed.
struct Connection {
    activity: Mutex<Activity>,
    close: CancellationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    /// No request is worked since this time: the head is incomplete, or the answer has not been taken yet.
    Idle(Instant),
    /// The rest of a request's body is awaited since this time. [`super::PacedBody`] limits the wait.
    AwaitsBody(Instant),
    /// A request is worked, and no more of its body is awaited.
    AtWork,
}

impl Activity {
    /// Returns the time since which the caller has been silent although it is its turn.
    fn silent_since(self) -> Option<Instant> {
        match self {
            Self::Idle(since) | Self::AwaitsBody(since) => Some(since),
            Self::AtWork => None,
        }
    }
}

/// A connection's place among the open ones. Dropping it frees the place.
pub(super) struct Place {
    connections: Arc<Connections>,
    id: u64,
    connection: Arc<Connection>,
}

/// Guard of a request: its connection is not idle, and keeps its place among the posts, until the guard is dropped.
pub(super) struct AtWork {
    connections: Arc<Connections>,
    id: u64,
    connection: Arc<Connection>,
}

/// Marks a connection as silent while more of its request's body is awaited.
pub(super) struct BodyWatch(Arc<Connection>);

impl Connections {
    pub(super) fn new(most: usize, most_posts: usize) -> Arc<Self> {
        Arc::new(Self { most, most_posts, open: Mutex::default() })
    }

    /// Takes a place for a new connection. If all are taken, the connection that has been silent longest is closed;
    /// `None` if none is silent. The new connection ends with `all_end` at the latest.
    pub(super) fn admit(self: &Arc<Self>, all_end: &CancellationToken) -> Option<Place> {
        let mut open = locked(&self.open);
        if open.all.len() >= self.most && !open.close_longest_silent(false) {
            return None;
        }
        let connection = Arc::new(Connection {
            activity: Mutex::new(Activity::Idle(Instant::now())),
            close: all_end.child_token(),
        });
        let id = open.next;
        open.next += 1;
        open.all.insert(id, Arc::clone(&connection));
        Some(Place { connections: Arc::clone(self), id, connection })
    }

    /// Closes the connection that has been silent longest.
    pub(super) fn make_room(&self) {
        locked(&self.open).close_longest_silent(false);
    }
}

impl Open {
    /// Closes the connection, or with `of_posts` the posting one, that has been silent longest; false if none is silent.
    fn close_longest_silent(&mut self, of_posts: bool) -> bool {
        let silent = |(id, connection): (&u64, &Arc<Connection>)| {
            locked(&connection.activity).silent_since().map(|since| (since, *id))
        };
        let meant = self.all.iter().filter(|(id, _)| !of_posts || self.posting.contains(id));
        let Some((_, id)) = meant.filter_map(silent).min() else { return false };
        self.posting.remove(&id);
        if let Some(connection) = self.all.remove(&id) {
            connection.close.cancel();
        }
        true
    }
}

impl Place {
    /// Marks the connection as at work until the guard is dropped. It is called when a request's head is complete.
    pub(super) fn begin(&self) -> AtWork {
        *locked(&self.connection.activity) = Activity::AtWork;
        let (connections, connection) =
            (Arc::clone(&self.connections), Arc::clone(&self.connection));
        AtWork { connections, id: self.id, connection }
    }

    /// Returns the mark for the body of the request that began last.
    pub(super) fn body_watch(&self) -> BodyWatch {
        BodyWatch(Arc::clone(&self.connection))
    }

    /// Waits until the connection has to end: it made room for another one, or was idle for `longest`.
    pub(super) async fn over(&self, longest: Duration) {
        let idle_since = || match *locked(&self.connection.activity) {
            Activity::Idle(since) => Some(since),
            Activity::AwaitsBody(_) | Activity::AtWork => None,
        };
        let idle_too_long = async {
            loop {
                let since = idle_since();
                let deadline = since.unwrap_or_else(Instant::now) + longest;
                sleep_until(deadline).await;
                if since.is_some() && since == idle_since() {
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

impl AtWork {
    /// Takes one of the places for posts. If all are taken, the post whose body has been awaited longest is closed: a
    /// poster who sends is never the most silent one while others only hold their places. False if none is awaited.
    pub(super) fn take_post_place(&self) -> bool {
        let mut open = locked(&self.connections.open);
        let is_full = open.posting.len() >= self.connections.most_posts;
        if is_full && !open.close_longest_silent(true) {
            return false;
        }
        open.posting.insert(self.id);
        true
    }
}

impl BodyWatch {
    /// Marks that more of the body is awaited from now on.
    pub(super) fn awaits(&self) {
        *locked(&self.0.activity) = Activity::AwaitsBody(Instant::now());
    }

    /// Marks that more of the body came, or that nothing more is awaited.
    pub(super) fn came(&self) {
        let mut activity = locked(&self.0.activity);
        if matches!(*activity, Activity::AwaitsBody(_)) {
            *activity = Activity::AtWork;
        }
    }
}

impl Drop for BodyWatch {
    fn drop(&mut self) {
        // A handler that drops a body unread goes on without it, so the body is awaited no more.
        self.came();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = locked(&self.connections.open);
        open.all.remove(&self.id);
        open.posting.remove(&self.id);
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        *locked(&self.connection.activity) = Activity::Idle(Instant::now());
        locked(&self.connections.open).posting.remove(&self.id);
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
        let (connections, end) = (Connections::new(2, 1), CancellationToken::new());
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

    #[test]
    fn the_post_that_is_silent_longest_makes_room_and_one_that_sends_does_not() {
        let (connections, end) = (Connections::new(9, 2), CancellationToken::new());
        let admit = || connections.admit(&end).unwrap();
        let (sending, silent, new, late) = (admit(), admit(), admit(), admit());
        let _idle = admit();
        let at_work = [&sending, &silent, &new, &late].map(Place::begin);
        assert!(at_work[0].take_post_place() && at_work[1].take_post_place());
        // No body of these posts is awaited, so none of them is closed.
        assert!(!at_work[2].take_post_place());
        let [sends, sends_nothing] = [&sending, &silent].map(Place::body_watch);
        sends.awaits();
        sends_nothing.awaits();
        // The connection sent a byte, and has to send more.
        sends.came();
        sends.awaits();
        assert!(at_work[2].take_post_place());
        assert_eq!((is_over(&sending), is_over(&silent)), (false, true));
        // The whole body of this connection has arrived now.
        drop(sends);
        assert!(!at_work[3].take_post_place());
        drop(at_work);
        assert_eq!(locked(&connections.open).posting.len(), 0);
    }
}
