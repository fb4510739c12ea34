//! The lines of an input through a pure function, in order, on several threads.

use std::{
    io::{Cursor, Read as _},
    path::Path,
};

use anyhow::{Context as _, Error};
use azul_vt::{
    bundle::{
        BundleError, Caps, Compression, JsonLinesReader, Layout, Line, OrderedError, layout_of,
        map_lines,
    },
    settings::Settings,
};
use serde::{Serialize, de::IgnoredAny};

use crate::{failure::Failure, input::Input, output::Output};

/// An open input whose lines are to be worked.
pub(crate) struct Source {
    input: Input,
    caps: Caps,
    threads: usize,
}

impl Source {
    /// Opens `path` (`-`: standard input), plain or compressed.
    pub(crate) fn open(
        path: &Path,
        threads: Option<u16>,
        settings: &Settings,
    ) -> Result<Self, Failure> {
        let caps = Caps {
            max_bundle_bytes: settings.max_bundle_bytes,
            max_line_bytes: settings.max_line_bytes,
        };
        let threads = match threads {
            Some(n) => n.into(),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        Ok(Self { input: Input::open(path)?, caps, threads })
    }

    /// Puts each record on a line of its own if the input is a list or has records over several lines. An input in
    /// bzip2 is a bundle of the feed, which has one record a line already, so its first block is not decoded a second
    /// time to find out.
    pub(crate) fn documents_as_lines(mut self) -> Result<Self, Failure> {
        let mut start = Vec::new();
        let name = &self.input.name;
        let read = self.input.reader.by_ref().take(4).read_to_end(&mut start);
        read.with_context(|| format!("cannot read {name}")).map_err(Failure::Usage)?;
        let is_bundle = Compression::of(&start) == Compression::Bzip2;
        let reader = Cursor::new(start).chain(self.input.reader);
        self.input.reader = if is_bundle {
            Box::new(reader)
        } else {
            match layout_of(reader, self.caps) {
                (Layout::Lines, reader) => Box::new(reader),
                (Layout::Documents, reader) => Box::new(JsonLinesReader::new(reader, self.caps)),
            }
        };
        Ok(self)
    }

    /// Turns an input that is one JSON text over many lines, as VirusTotal answers with a report, into one line. The
    /// input stays as it is if it is compressed, or longer than a line may be.
    pub(crate) fn one_document_as_one_line(mut self) -> Result<Self, Failure> {
        let mut start = Vec::new();
        let most = u64::try_from(self.caps.max_line_bytes).unwrap_or(u64::MAX);
        let read = self.input.reader.by_ref().take(most.saturating_add(1)).read_to_end(&mut start);
        let name = &self.input.name;
        read.with_context(|| format!("cannot read {name}")).map_err(Failure::Usage)?;
        if serde_json::from_slice::<IgnoredAny>(&start).is_ok() {
            // Line breaks in JSON text stand only between tokens, where a blank may stand too.
            for byte in start.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
                *byte = b' ';
            }
        }
        self.input.reader = Box::new(Cursor::new(start).chain(self.input.reader));
        Ok(self)
    }

    /// Calls `work` for each line that is not blank and `take` with the results, in order. If the input breaks off, the
    /// results of all lines before the break are taken, and an error is returned.
    pub(crate) fn each<T: Send>(
        self,
        work: impl Fn(&Line, &[u8]) -> T + Sync,
        take: impl FnMut(T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let name = self.input.name.clone();
        // The guard is held until the end, because dropping it takes the bar off the screen.
        let _progress = self.input.progress();
        match map_lines(self.input.reader, self.caps, self.threads, work, take) {
            // An empty file has no lines.
            Ok(_) | Err(OrderedError::Bundle(BundleError::Empty)) => Ok(()),
            Err(OrderedError::Taker(failure)) => Err(failure),
            // A transient error is one of the disk or the pipe, not of the bundle.
            Err(OrderedError::Bundle(error)) if error.is_transient() => {
                Err(Failure::Usage(Error::new(error).context(format!("cannot read {name}"))))
            }
            Err(OrderedError::Bundle(error)) => Err(Failure::Job(Error::new(error).context(name))),
        }
    }

    /// Prints the result of `work` for each line. The lines before a fault are printed.
    pub(crate) fn print(
        self,
        work: impl Fn(&Line, &[u8]) -> Result<Vec<u8>, serde_json::Error> + Sync,
    ) -> Result<(), Failure> {
        let mut output = Output::open();
        let ended = self.each(work, |line| output.bytes(&line.map_err(Failure::job)?));
        if !matches!(ended, Err(Failure::Closed)) {
            output.finish()?;
        }
        ended
    }
}

/// The output of `vt map` and `vt select` for a line of the input.
#[derive(Serialize)]
pub(crate) struct Shape<'a, E> {
    line: u64,
    events: &'a [E],
    filtered: Option<&'a str>,
    rejected: Option<&'a str>,
}

impl<'a, E: Serialize> Shape<'a, E> {
    /// Returns the shape of a line that makes these events.
    pub(crate) fn events(line: u64, events: &'a [E]) -> Self {
        Self { line, events, filtered: None, rejected: None }
    }

    /// The shape as a line of JSON, with its end.
    pub(crate) fn to_line(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

impl<'a> Shape<'a, ()> {
    /// Returns the shape of a line that is filtered.
    pub(crate) fn filtered(line: u64, reason: &'a str) -> Self {
        Self { line, events: &[], filtered: Some(reason), rejected: None }
    }

    /// Returns the shape of a line that is rejected: it can never make an event.
    pub(crate) fn rejected(line: u64, reason: &'a str) -> Self {
        Self { line, events: &[], filtered: None, rejected: Some(reason) }
    }
}
