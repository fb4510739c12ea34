//! Input of a command: a file or standard input, with a progress bar if standard error is a terminal.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::Path,
};

use anyhow::{Context as _, anyhow};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;

/// An open input and the bar that shows how far it was read.
pub(crate) struct Input {
    /// The bytes as they are stored, compressed or not.
    pub(crate) reader: Box<dyn Read + Send>,
    /// Name of the input in messages.
    pub(crate) name: String,
    bar: ProgressBar,
}

impl Input {
    /// Opens `path`; `-` is standard input.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            let bar = bar(None);
            let reader = Box::new(bar.wrap_read(io::stdin()));
            return Ok(Self { reader, name: "standard input".into(), bar });
        }
        let name = path.display().to_string();
        let open = || -> anyhow::Result<(File, Option<u64>)> {
            let file = File::open(path)?;
            let meta = file.metadata()?;
            if meta.is_dir() {
                return Err(anyhow!("it is a directory"));
            }
            Ok((file, meta.is_file().then_some(meta.len())))
        };
        let (file, size) =
            open().with_context(|| format!("cannot read {name}")).map_err(Failure::Usage)?;
        let bar = bar(size);
        Ok(Self { reader: Box::new(bar.wrap_read(file)), name, bar })
    }

    /// A handle on the bar that outlives the reader.
    pub(crate) fn progress(&self) -> Progress {
        Progress(self.bar.clone())
    }
}

/// Takes the bar off the screen when the work ends, however it ends.
pub(crate) struct Progress(ProgressBar);

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Hidden unless standard error is a terminal, and where data goes to the same terminal.
fn bar(size: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() || io::stdout().is_terminal() {
        return ProgressBar::hidden();
    }
    let target = ProgressDrawTarget::stderr();
    let (bar, template) = match size {
        Some(size) => (
            ProgressBar::with_draw_target(Some(size), target),
            "{bar:40} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left",
        ),
        None => (
            ProgressBar::with_draw_target(None, target),
            "{spinner} {bytes} read, {bytes_per_sec}, {elapsed}",
        ),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
