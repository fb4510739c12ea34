//! Splits `{"events":[…]}` into its events while the text arrives in pieces.
//!
//! The splitter looks only at brackets and strings. The reader of an event finds out whether it is valid, so an event
//! that is broken or nested too deeply is lost alone. `serde_json` would stop at that event, lose all events behind it,
//! and occupy a thread.

/// Longest event, in bytes; a longer one is skipped. Azul's broker takes 3 MiB.
const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;
/// The name of the member that holds the events, with its closing quote.
const EVENTS: &[u8] = b"events\"";

/// The JSON text of an event, or the description of an event that was skipped.
pub type EventText<'a> = Result<&'a [u8], TooLong<'a>>;

/// An event that is too long to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has {length} bytes, and {MAX_EVENT_BYTES} are read")]
pub struct TooLong<'a> {
    /// The start of its text.
    pub start: &'a [u8],
    /// Length of the whole text in bytes.
    pub length: usize,
}

/// Splits a list of events that arrives in pieces.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "what a scanner of JSON knows of where it is")]
pub(super) struct EventList {
    /// Number of lists and objects that are open.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// The start of the last string in the outermost object: the name of the member that follows.
    name: Vec<u8>,
    in_events: bool,
    /// Whether the outermost object has ended.
    is_whole: bool,
    /// Bytes of the current event so far, at most [`MAX_EVENT_BYTES`].
    event: Vec<u8>,
    /// Length of the current event in bytes; it is more than `event` holds if the event is too long.
    length: usize,
    /// Number of events that were given.
    pub(super) given: usize,
    /// Length of the largest event in bytes.
    pub(super) largest: usize,
}

impl EventList {
    /// Takes the next piece of the text and passes each event that ends in it to `give`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the text. No event behind it can be found.
    pub(super) fn feed(
        &mut self,
        piece: &[u8],
        give: &mut (dyn FnMut(EventText<'_>) + Send),
    ) -> Result<(), String> {
        let mut rest = piece;
        while let Some((&byte, behind)) = rest.split_first() {
            if self.in_string {
                rest = self.string(rest);
                continue;
            }
            rest = behind;
            match byte {
                b'"' => {
                    self.in_string = true;
                    if self.depth == 1 {
                        self.name.clear();
                    }
                }
                b'[' if self.depth == 1 && !self.in_events && self.name == EVENTS => {
                    (self.depth, self.in_events) = (2, true);
                    continue;
                }
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' => {
                    self.depth = self.depth.checked_sub(1).ok_or("a bracket closes nothing")?;
                    self.is_whole = self.depth == 0;
                    if self.in_events && self.depth == 1 {
                        self.end_event(give);
                        self.in_events = false;
                    }
                }
                b',' if self.depth == 2 && self.in_events => {
                    self.end_event(give);
                    continue;
                }
                _ => {}
            }
            self.keep(&[byte]);
        }
        Ok(())
    }

    /// Takes the part of a piece that belongs to the open string, and returns the rest.
    fn string<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let end = if std::mem::take(&mut self.is_escaped) {
            1
        } else {
            let end = memchr::memchr2(b'"', b'\\', piece);
            match end.and_then(|end| piece.get(end)) {
                Some(b'"') => self.in_string = false,
                Some(_) => self.is_escaped = true,
                None => {}
            }
            end.map_or(piece.len(), |end| end.saturating_add(1))
        };
        let (part, behind) = piece.split_at_checked(end).unwrap_or((piece, &[]));
        if self.depth == 1 {
            let room = EVENTS.len().saturating_add(2).saturating_sub(self.name.len());
            self.name.extend(part.iter().take(room));
        }
        self.keep(part);
        behind
    }

    /// Ends the text.
    ///
    /// # Errors
    /// A sentence that says that the text is incomplete.
    pub(super) fn finish(&self) -> Result<(), String> {
        if self.is_whole { Ok(()) } else { Err("its list of events is not whole".into()) }
    }

    fn keep(&mut self, part: &[u8]) {
        if !self.in_events {
            return;
        }
        self.length = self.length.saturating_add(part.len());
        let room = MAX_EVENT_BYTES.saturating_sub(self.event.len());
        self.event.extend_from_slice(part.get(..room).unwrap_or(part));
    }

    fn end_event(&mut self, give: &mut (dyn FnMut(EventText<'_>) + Send)) {
        let length = std::mem::take(&mut self.length);
        if length > MAX_EVENT_BYTES || !self.event.trim_ascii().is_empty() {
            self.given = self.given.saturating_add(1);
            self.largest = self.largest.max(length);
            if length > MAX_EVENT_BYTES {
                give(Err(TooLong { start: &self.event, length }));
            } else {
                give(Ok(&self.event));
            }
        }
        self.event.clear();
        self.event.shrink_to(1024 * 1024);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Splits a text that arrives in pieces of `size` bytes.
    fn split(text: &str, size: usize) -> Result<Vec<String>, String> {
        let (mut list, mut events) = (EventList::default(), Vec::new());
        let mut give = |event: EventText<'_>| {
            events.push(String::from_utf8(event.unwrap().trim_ascii().to_vec()).unwrap());
        };
        for piece in text.as_bytes().chunks(size) {
            list.feed(piece, &mut give)?;
        }
        list.finish().map(|()| events)
    }

    proptest! {
        #[test]
        fn events_come_out_as_they_went_in_wherever_the_pieces_end(
            texts in proptest::collection::vec(".*", 0..6), size in 1_usize..40, before in ".*",
        ) {
            let events: Vec<Value> = texts
                .iter()
                .map(|text| json!({"events": [text, [text]], text.as_str(): {"a": "]},[\"\\"}}))
                .collect();
            let whole = json!({"a": {"events": [1]}, "b": before, "events": events, "z": [[2]]});
            let found = split(&whole.to_string(), size).unwrap();
            let found: Vec<Value> = found.iter().map(|e| serde_json::from_str(e).unwrap()).collect();
            prop_assert_eq!(found, events);
        }
    }

    #[test]
    fn a_text_without_events_has_none_and_one_that_ends_early_is_an_error() {
        for none in ["{}", "{\"events\":null}", "{\"events\":[]}", "{\"events\": [ ] }\n"] {
            assert_eq!(split(none, 3).unwrap(), Vec::<String>::new(), "{none}");
        }
        for broken in ["", "{", "{\"events\":[{}", "{\"events\":[\"}]", "}"] {
            assert!(split(broken, 3).is_err(), "{broken}");
        }
    }

    #[test]
    fn an_event_that_is_too_long_costs_itself_alone() {
        let long = "x".repeat(MAX_EVENT_BYTES);
        let text = format!("{{\"events\":[1,\"{long}\",{}]}}", "[".repeat(500) + &"]".repeat(500));
        let (mut list, mut seen) = (EventList::default(), Vec::new());
        let mut give = |event: EventText<'_>| {
            let why = |long: TooLong<'_>| (long.to_string(), long.start.len());
            seen.push(event.map(<[u8]>::len).map_err(why));
        };
        list.feed(text.as_bytes(), &mut give).unwrap();
        list.finish().unwrap();
        let [Ok(1), Err((why, MAX_EVENT_BYTES)), Ok(1000)] = seen.as_slice() else {
            panic!("{seen:?}")
        };
        assert!(why.contains("16777218 bytes"), "{why}");
        assert_eq!((list.given, list.largest), (3, MAX_EVENT_BYTES + 2));
    }
}
