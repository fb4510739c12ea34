//! A process of `vt` that goes on until it is told to end.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

/// Runs a command to its end, off the threads that serve its requests.
pub(crate) async fn output(mut command: Command) -> Output {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    for said in [&output.stdout, &output.stderr] {
        tells_no_secret(&String::from_utf8_lossy(said));
    }
    output
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

/// Asserts that a process does not print VirusTotal's key. Every test checks this, whatever it is about.
pub(crate) fn tells_no_secret(said: &str) {
    assert!(!said.contains(sim::TEST_KEY), "it tells the key: {said}");
}

/// A running process and its log.
pub(crate) struct Running {
    pub(crate) child: Child,
    /// Lines of the log that the test has not read yet. A thread reads the log all the time, because a process stops
    /// when its pipe is full.
    lines: Receiver<String>,
    pub(crate) said: String,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).unwrap() > 0 {
                // The receiver is gone when the test is over.
                let _ = sender.send(std::mem::take(&mut line));
            }
        });
        Self { child, lines, said: String::new() }
    }

    /// Reads the log until a line contains `words`, for five minutes at most.
    pub(crate) fn until(mut self, words: &str) -> Self {
        let late = Instant::now() + Duration::from_mins(5);
        loop {
            let left = late.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("it ended, or went on, without saying `{words}`: {}", self.said);
            };
            self.said.push_str(&line);
            if line.contains(words) {
                return self;
            }
        }
    }

    /// Starts a server; gives its URL too, once it listens.
    pub(crate) fn serve(command: Command) -> (Self, String) {
        let running = Self::start(command).until("listening on ");
        let (_, url) = running.said.rsplit_once("listening on ").unwrap();
        let url = url.split_whitespace().next().unwrap().to_owned();
        (running, url)
    }

    pub(crate) fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    /// Waits for its end; one that does not end by far is killed.
    pub(crate) async fn end(mut self) -> (ExitStatus, String) {
        let pid = self.child.id();
        let waiting = tokio::task::spawn_blocking(move || {
            self.said.extend(self.lines.iter());
            (self.child.wait().unwrap(), std::mem::take(&mut self.said))
        });
        if let Ok(ended) = tokio::time::timeout(Duration::from_secs(30), waiting).await {
            let (status, said) = ended.unwrap();
            tells_no_secret(&said);
            return (status, said);
        }
        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        panic!("it does not end");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // This kills the process if a test drops it early, or fails before its end. After the wait the process is gone,
        // and what it held is free.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
