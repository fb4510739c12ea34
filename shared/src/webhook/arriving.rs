//! Limits the memory or disk space of all bodies that are arriving.
//!
//! A signature can be checked only at the end of a body, so anybody can begin a body and hold room with it. If the room
//! is full, the body that has not grown for the longest time is broken off. So a stranger has to keep sending to hold
//! room.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Number of bytes by which a body takes room. A body that grows by less counts as not growing, so that a sender cannot
/// hold room with a single byte now and then.
const STEP_BYTES: u64 = 1024;

/// There is no room for a body, because others that are whole take it, or because it was broken off for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much is coming in at once")]
pub struct NoRoom;

/// The room of all bodies that are arriving, in bytes.
#[derive(Debug)]
pub struct ArrivingBodies {
    most_bytes: u64,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// Bytes of all `bodies`.
    bytes: u64,
    /// Bodies by number, in the order in which they began.
    bodies: BTreeMap<u64, Body>,
    next: u64,
}

#[derive(Debug)]
struct Body {
    bytes: u64,
    /// Time at which the body last took room.
    grown: Instant,
    is_whole: bool,
    broken_off: CancellationToken,
}

/// The room of one body. Dropping it frees the room.
#[derive(Debug)]
pub struct Arriving<'a> {
    all: &'a ArrivingBodies,
    id: u64,
    broken_off: CancellationToken,
}

impl ArrivingBodies {
    /// Creates a room of `most_bytes` bytes.
    pub fn new(most_bytes: u64) -> Self {
        Self { most_bytes, inside: Mutex::default() }
    }

    /// Begins a body, which takes no room yet.
    pub fn begin(&self) -> Arriving<'_> {
        let broken_off = CancellationToken::new();
        let body = Body {
            bytes: 0,
            grown: Instant::now(),
            is_whole: false,
            broken_off: broken_off.clone(),
        };
        let mut inside = self.inside();
        let id = inside.next;
        inside.next += 1;
        inside.bodies.insert(id, body);
        Arriving { all: self, id, broken_off }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn remove(&mut self, id: u64) -> Option<Body> {
        let body = self.bodies.remove(&id)?;
        self.bytes -= body.bytes;
        Some(body)
    }

    /// Breaks off the body that has not grown for the longest time, except the one with number `id`. False if there is
    /// none.
    fn break_one_off(&mut self, id: u64) -> bool {
        let others = self
            .bodies
            .iter()
            .filter(|(other, body)| **other != id && !body.is_whole && body.bytes > 0);
        let Some((_, slowest)) = others.map(|(id, body)| (body.grown, *id)).min() else {
            return false;
        };
        if let Some(body) = self.remove(slowest) {
            body.broken_off.cancel();
        }
        true
    }
}

impl Arriving<'_> {
    /// Takes room for a body that has `bytes` so far. If there is too little, others are broken off.
    ///
    /// # Errors
    /// See [`NoRoom`].
    pub fn grow(&self, bytes: u64) -> Result<(), NoRoom> {
        let bytes = bytes.next_multiple_of(STEP_BYTES);
        let mut inside = self.all.inside();
        let held = inside.bodies.get(&self.id).ok_or(NoRoom)?.bytes;
        let more = bytes.saturating_sub(held);
        if more == 0 {
            return Ok(());
        }
        while inside.bytes.saturating_add(more) > self.all.most_bytes {
            if !inside.break_one_off(self.id) {
                return Err(NoRoom);
            }
        }
        inside.bytes += more;
        if let Some(body) = inside.bodies.get_mut(&self.id) {
            body.bytes = bytes;
            body.grown = Instant::now();
        }
        Ok(())
    }

    /// Notes that the whole body has arrived. From now on the body is not broken off.
    ///
    /// # Errors
    /// [`NoRoom`] if the body was broken off before.
    pub fn finish(&self) -> Result<(), NoRoom> {
        let mut inside = self.all.inside();
        inside.bodies.get_mut(&self.id).ok_or(NoRoom)?.is_whole = true;
        Ok(())
    }

    /// Waits for `reading`, which reads this body, and returns its result.
    ///
    /// # Errors
    /// [`NoRoom`] if the body was broken off meanwhile.
    pub async fn unless_broken_off<T>(
        &self,
        reading: impl Future<Output = T>,
    ) -> Result<T, NoRoom> {
        tokio::select! {
            biased;
            () = self.broken_off.cancelled() => Err(NoRoom),
            read = reading => Ok(read),
        }
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.all.inside().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_that_has_not_grown_longest_makes_room_and_a_whole_one_never_does() {
        let all = ArrivingBodies::new(10 * STEP_BYTES);
        let bodies = [all.begin(), all.begin(), all.begin(), all.begin()];
        let [whole, grows, drips, new] = &bodies;
        for body in [whole, grows, drips] {
            body.grow(3 * STEP_BYTES - 1).unwrap();
        }
        whole.finish().unwrap();
        grows.grow(3 * STEP_BYTES + 1).unwrap();
        // The body takes no further room, so it does not count as growing.
        drips.grow(3 * STEP_BYTES).unwrap();
        new.grow(1).unwrap();
        assert_eq!(drips.finish(), Err(NoRoom));
        assert_eq!(drips.grow(4 * STEP_BYTES), Err(NoRoom));
        new.grow(7 * STEP_BYTES).unwrap();
        assert_eq!(grows.grow(1), Err(NoRoom));
        // A whole body keeps its room until it is dropped.
        assert_eq!(new.grow(8 * STEP_BYTES), Err(NoRoom));
        whole.finish().unwrap();
        drop(bodies);
        assert_eq!(all.inside().bytes, 0);
    }

    #[tokio::test]
    async fn who_waits_for_more_of_a_body_hears_that_it_was_broken_off() {
        let all = ArrivingBodies::new(STEP_BYTES);
        let (one, other) = (all.begin(), all.begin());
        one.grow(1).unwrap();
        assert_eq!(one.unless_broken_off(std::future::ready(1)).await, Ok(1));
        other.grow(1).unwrap();
        assert_eq!(one.unless_broken_off(std::future::pending::<()>()).await, Err(NoRoom));
    }
}
