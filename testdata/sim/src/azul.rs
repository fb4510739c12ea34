//! Azul's own library, a Python package that `make azul` installs: it judges events, and has a stand-in of the
//! dispatcher that is not ours.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::{Published, python::Venv};

const VENV: Venv = Venv { target: "azul", variable: "AZUL_VT_AZUL" };

/// Azul's own library.
#[derive(Clone, Copy, Debug)]
pub struct Azul(());

impl Azul {
    /// `None`, with the reason printed, where it is not installed.
    ///
    /// # Errors
    /// It is not installed although `CI` is `true`.
    pub fn installed() -> Result<Option<Self>> {
        Ok(VENV.is_installed()?.then_some(Self(())))
    }

    /// Checks events with Azul's models of them and returns a line for each complaint. Blocks.
    ///
    /// # Errors
    /// The models did not check all of the events.
    pub fn complaints<'a>(
        self,
        events: impl IntoIterator<Item = &'a Published>,
    ) -> Result<Vec<String>> {
        let events: Vec<String> = events
            .into_iter()
            .map(|e| json!({"model": e.model.name(), "event": e.event}).to_string() + "\n")
            .collect();
        let count = events.len();
        let mut child = script("models.py").spawn()?;
        let mut stdin = child.stdin.take().context("no input")?;
        // While it writes, or both would wait.
        let writing = thread::spawn(move || {
            events.iter().try_for_each(|event| stdin.write_all(event.as_bytes()))
        });
        let output = child.wait_with_output()?;
        let wrote = writing.join();
        ensure!(output.status.success(), "Azul's models ended with {}", output.status);
        wrote.ok().context("the events were not written")??;
        let mut lines: Vec<String> =
            String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect();
        let read = lines.pop().context("Azul's models said nothing")?;
        ensure!(read == count.to_string(), "Azul's models looked at {read} of {count} events");
        Ok(lines)
    }

    /// Starts the library's stand-in of the dispatcher, which answers the next request as it was told; blocks
    /// until it listens. It ends with its handle.
    ///
    /// # Errors
    /// It does not start.
    pub fn dispatcher(self) -> Result<AzulDispatcher> {
        let mut process = script("dispatcher.py").spawn()?;
        let mut url = String::new();
        let said = process.stdout.take().context("no output")?;
        BufReader::new(said).read_line(&mut url)?;
        let url = url.trim_end().to_owned();
        let dispatcher = AzulDispatcher { process, url };
        ensure!(dispatcher.url.starts_with("http://127.0.0.1:"), "it does not listen");
        Ok(dispatcher)
    }
}

fn script(name: &str) -> Command {
    let mut command = Command::new(VENV.python());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../azul").join(name));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// The stand-in of the dispatcher of Azul's own library.
#[derive(Debug)]
pub struct AzulDispatcher {
    process: Child,
    url: String,
}

impl AzulDispatcher {
    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Says what the next request is answered with.
    ///
    /// # Errors
    /// It does not take that.
    pub async fn answers(&self, status: u16, body: &str) -> Result<()> {
        let url = format!("{}/mock/set_resp/{status}", self.url);
        let told = reqwest::Client::new().post(url).body(body.to_owned()).send().await?;
        told.error_for_status()?;
        Ok(())
    }

    /// The URL of the request that it saw last.
    ///
    /// # Errors
    /// It does not say.
    pub async fn last_request(&self) -> Result<String> {
        let answer = reqwest::get(format!("{}/mock/last_req", self.url)).await?;
        let seen: serde_json::Value = serde_json::from_slice(&answer.bytes().await?)?;
        let url = seen.get("url").and_then(serde_json::Value::as_str);
        Ok(url.context("it saw no request")?.to_owned())
    }
}

impl Drop for AzulDispatcher {
    fn drop(&mut self) {
        // The process ends when its input does.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
