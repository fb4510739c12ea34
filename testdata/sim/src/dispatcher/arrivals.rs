//! The log of the events that arrived at the dispatcher, in order, and queries on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use super::{
    schema::Model,
    validate::{action, list, problems, text},
};

/// An event that the dispatcher took and would now hand out.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// Model of the event.
    pub model: Model,
    /// Action of the event: the status of a status event, "" for a plugin event.
    pub action: String,
    /// The name of its source; "" where the model has none.
    pub source: String,
    /// Key of the event, as hex.
    pub key: String,
    /// The event in its JSON spelling, with `kafka_key` set.
    pub event: Value,
}

/// The request or the result of a download event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Download {
    /// `<rule file>/<rule>`.
    pub category: String,
    /// sha256 as sent.
    pub hash: String,
    /// `requested`, `success`, ….
    pub action: String,
}

/// Everything that arrived so far: a copy, so it stays as it was when asked for.
#[derive(Clone, Debug, Default)]
pub struct Arrived {
    /// Every event taken, in order, repeats too.
    pub events: Vec<Arc<Published>>,
    /// Binary events that overwrote an earlier one of the same key.
    pub repeats: u64,
    /// Problems in events that the dispatcher took but Azul's readers refuse. A test expects none.
    pub problems: Vec<String>,
}

impl Arrived {
    /// Counts events by model, action and source; repeats count.
    pub fn counts(&self) -> BTreeMap<(Model, String, String), u64> {
        let mut counts = BTreeMap::new();
        for e in &self.events {
            *counts.entry((e.model, e.action.clone(), e.source.clone())).or_default() += 1;
        }
        counts
    }

    /// Returns the number of events of a model and action; repeats count.
    pub fn count(&self, model: Model, action: &str) -> usize {
        self.of(model).filter(|e| e.action == action).count()
    }

    /// The events of a model, in order of arrival.
    pub fn of(&self, model: Model) -> impl Iterator<Item = &Published> {
        self.events.iter().map(AsRef::as_ref).filter(move |e| e.model == model)
    }

    /// Binary key → the last event under it.
    pub fn keys(&self) -> BTreeMap<String, Value> {
        self.of(Model::Binary).map(|e| (e.key.clone(), e.event.clone())).collect()
    }

    /// The sha256 of every binary that an event came for.
    pub fn sha256s(&self) -> BTreeSet<String> {
        self.of(Model::Binary).map(|e| text(&e.event, "/entity/sha256").to_owned()).collect()
    }

    /// Download events in order of arrival, repeats too.
    pub fn downloads(&self) -> Vec<Download> {
        self.of(Model::Download)
            .map(|e| Download {
                category: text(&e.event, "/entity/category").to_owned(),
                hash: text(&e.event, "/entity/hash").to_owned(),
                action: e.action.clone(),
            })
            .collect()
    }

    /// Plugin registrations in order of arrival.
    pub fn registrations(&self) -> Vec<&Value> {
        self.of(Model::Plugin).map(|e| &e.event).collect()
    }

    /// The names of the features that registrations of this plugin listed.
    pub fn registered_features(&self, plugin: &str) -> BTreeSet<String> {
        self.registrations()
            .into_iter()
            .filter(|r| text(r, "/entity/name") == plugin)
            .flat_map(|r| list(r, "/entity/features"))
            .map(|f| text(f, "/name").to_owned())
            .collect()
    }

    /// The names of the features that binary events carried.
    pub fn feature_names(&self) -> BTreeSet<String> {
        self.of(Model::Binary)
            .flat_map(|e| list(&e.event, "/entity/features"))
            .map(|f| text(f, "/name").to_owned())
            .collect()
    }

    /// All of it in figures, for scripts.
    pub fn summary(&self) -> Value {
        let counts: Vec<Value> = self
            .counts()
            .into_iter()
            .map(|((model, action, source), count)| {
                json!({"model": model.name(), "action": action, "source": source, "count": count})
            })
            .collect();
        let downloads = self.downloads();
        let unique: BTreeSet<_> = downloads.iter().map(|d| (&d.category, &d.hash)).collect();
        json!({
            "counts": counts,
            "events": self.events.len(),
            "binary_keys": self.keys().len(),
            "binaries": self.sha256s().len(),
            "repeats": self.repeats,
            "downloads": downloads.len(),
            "unique_downloads": unique.len(),
            "registrations": self.registrations().iter()
                .map(|r| text(r, "/entity/name")).collect::<BTreeSet<_>>(),
            "problems": self.problems,
        })
    }
}

/// The book that arrivals are entered in, and the file they survive a restart in.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) arrived: Arrived,
    known: BTreeSet<String>,
    file: Option<File>,
}

impl Book {
    /// Reads what an earlier process recorded there, and goes on recording.
    pub(super) fn record_to(&mut self, path: &Path) -> Result<()> {
        let file = File::options()
            .create(true)
            .append(true)
            .read(true)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        for line in BufReader::new(&file).lines() {
            let line = line.context("reading the record")?;
            // The last line of a killed process may be half.
            if let Ok(value) = serde_json::from_str::<Value>(&line) {
                let model = Model::from_name(text(&value, "/model"))
                    .ok_or_else(|| anyhow!("an unknown model in {}", path.display()))?;
                let event = value.pointer("/event").cloned().unwrap_or_default();
                self.remember(model, text(&value, "/key").to_owned(), event);
            }
        }
        self.file = Some(file);
        Ok(())
    }

    /// Enters an event; on disk before the caller answers, where there is a file.
    pub(super) fn enter(&mut self, model: Model, key: String, event: Value) -> Result<()> {
        if let Some(file) = &mut self.file {
            let line = json!({"model": model.name(), "key": key, "event": event});
            file.write_all(format!("{line}\n").as_bytes()).context("recording an arrival")?;
        }
        self.remember(model, key, event);
        Ok(())
    }

    /// Forgets everything; the file, where there is one, stays as it is.
    pub(super) fn forget(&mut self) {
        self.arrived = Arrived::default();
        self.known.clear();
    }

    fn remember(&mut self, model: Model, key: String, event: Value) {
        if model == Model::Binary && !self.known.insert(key.clone()) {
            self.arrived.repeats += 1;
        }
        for problem in problems(model, &event) {
            self.arrived.problems.push(format!("{}: {problem}", model.name()));
        }
        self.arrived.events.push(Arc::new(Published {
            model,
            action: action(model, &event).to_owned(),
            source: text(&event, "/source/name").to_owned(),
            key,
            event,
        }));
    }
}
