//! An emulator of AWS: `ministack`, a Python program that `make` installs, as a child process.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    ops::Deref,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::python::{Venv, say};

const VENV: Venv = Venv { target: "aws", variable: "AZUL_VT_AWS" };

/// Longest wait for a start on a machine under load; half a second is usual.
const START: Duration = Duration::from_mins(1);
/// Pause between two checks whether the emulator answers.
const POLL_INTERVAL: Duration = Duration::from_millis(25);
/// Bytes of the log's end that a failing test prints; all of it is kept.
const SHOWN: usize = 8 * 1024;

/// A running emulator of DynamoDB, S3, SQS and Secrets Manager, with a state of its own.
///
/// The emulator ends with its handle, and also when this process ends in any other way. If a test fails while it holds
/// a handle, the log is shown and kept.
#[derive(Debug)]
pub struct Aws {
    process: Child,
    address: SocketAddr,
    home: PathBuf,
}

impl Aws {
    /// Starts one; blocks until it answers. `None`, with the reason printed, where it is not installed:
    /// a test that needs it then has nothing to show.
    ///
    /// # Errors
    /// It is not installed although `CI` is `true`, or it does not come up.
    pub fn start() -> Result<Option<Self>> {
        Self::start_with("false")
    }

    /// Starts an emulator as [`Aws::start`] does. This one asks each caller for a signature, and users ([`Aws::user`])
    /// for their permissions.
    ///
    /// # Errors
    /// As [`Aws::start`].
    pub fn start_guarded() -> Result<Option<Self>> {
        Self::start_with("true")
    }

    fn start_with(guarded: &str) -> Result<Option<Self>> {
        if !VENV.is_installed()? {
            return Ok(None);
        }
        // Somebody else may take a port between our look and the emulator's own.
        let mut tries = 3;
        loop {
            tries -= 1;
            match Self::try_start(guarded) {
                Err(_) if tries > 0 => {}
                other => return other.map(Some),
            }
        }
    }

    /// The one that all tests of this process share; each takes names of its own ([`Aws::name`]).
    ///
    /// # Errors
    /// As [`Aws::start`].
    pub fn shared() -> Result<Option<Shared>> {
        static ONE: OnceLock<Option<Aws>> = OnceLock::new();
        static STARTING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _one_at_a_time = crate::server::lock(&STARTING);
        if ONE.get().is_none() {
            let _ = ONE.set(Self::start()?);
        }
        Ok(ONE.get().and_then(Option::as_ref).map(Shared))
    }

    /// `http://127.0.0.1:<port>`, for `AWS_ENDPOINT_URL`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the emulator's directory, which has its `log`. It is removed with the handle, unless it holds a file
    /// `keep` by then.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The variables by which AWS's clients find it, as its owner, who may do anything.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        self.environment_of("test", "test")
    }

    /// Makes a user who may do what `policy` says, a policy document of IAM; the variables by which clients
    /// are that user. Blocks.
    ///
    /// # Errors
    /// It does not take the policy.
    pub fn user(&self, policy: &str) -> Result<Vec<(&'static str, String)>> {
        let said = self.python("user.py", &[policy])?;
        let (id, secret) = said.trim().split_once(' ').context("no user was made")?;
        Ok(self.environment_of(id, secret))
    }

    /// Puts an entry into Secrets Manager, as the owner of the account.
    ///
    /// # Errors
    /// It does not take it.
    pub fn secret(&self, name: &str, value: &str) -> Result<()> {
        self.python("secret.py", &[name, value]).map(drop)
    }

    /// Puts the files of a directory into a bucket, under names that begin with `prefix`, as the owner of the
    /// account; makes the bucket where it is not there. Blocks.
    ///
    /// # Errors
    /// It does not take them.
    pub fn objects(&self, bucket: &str, prefix: &str, directory: &Path) -> Result<()> {
        let directory = directory.to_str().context("the directory's name is no text")?;
        self.python("objects.py", &[bucket, prefix, directory]).map(drop)
    }

    /// Runs a script of testdata/aws and returns its output.
    fn python(&self, script: &str, args: &[&str]) -> Result<String> {
        let run = Command::new(VENV.python())
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../aws").join(script))
            .arg(self.endpoint())
            .args(args)
            .output()?;
        if !run.status.success() {
            bail!("{script} failed: {}", String::from_utf8_lossy(&run.stderr));
        }
        Ok(String::from_utf8(run.stdout)?)
    }

    fn environment_of(&self, id: &str, secret: &str) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", id.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
            ("AWS_REGION", "us-east-1".into()),
        ]
    }

    /// A name that no other call in this process gives: for a table, a bucket or a queue.
    pub fn name(&self, what: &str) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        format!("{what}-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
    }

    fn try_start(guarded: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let home = VENV.folder().join(format!("run/{}-{number}", std::process::id()));
        fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
        let log = File::create(home.join("log"))?;
        let process = Command::new(VENV.python())
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../aws/run.py"))
            .arg(&home)
            .env("BIND_HOST", "127.0.0.1")
            .env("GATEWAY_PORT", port.to_string())
            .env("AUTH", guarded)
            .env("TMPDIR", &home)
            .env("STATE_DIR", home.join("state"))
            .env("S3_DATA_DIR", home.join("s3"))
            .env_remove("PERSIST_STATE")
            .env_remove("S3_PERSIST")
            // Held open by us: it ends where we do.
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", VENV.python().display()))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut aws = Self { process, address, home };
        aws.wait()?;
        Ok(aws)
    }

    fn wait(&mut self) -> Result<()> {
        let until = Instant::now() + START;
        loop {
            let healthy = healthy(self.address);
            // Looked at after the answer: a port that somebody else has may answer too.
            if let Some(status) = self.process.try_wait()? {
                bail!("the emulator of AWS ended at once ({status}):\n{}", self.log());
            }
            if healthy {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("the emulator of AWS does not answer:\n{}", self.log());
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// The end of its log.
    fn log(&self) -> String {
        let bytes = fs::read(self.home.join("log")).unwrap_or_default();
        let end = bytes.get(bytes.len().saturating_sub(SHOWN)..).unwrap_or_default();
        String::from_utf8_lossy(end).into_owned()
    }

    /// Shows and keeps the log if the test that used the emulator failed.
    fn show_failure(&self) {
        if thread::panicking() {
            // Without it the log goes with the process; there is nobody to tell.
            let _ = File::create(self.home.join("keep"));
            let mut text = String::new();
            let log = self.home.join("log");
            let _ = writeln!(text, "log of the emulator of AWS, whole in {}:", log.display());
            text.push_str(&self.log());
            say(&text);
        }
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        self.show_failure();
        // The emulator ends when its input does, and removes its files. If it ended before, they are removed here.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
        if !self.home.join("keep").exists() {
            let _ = fs::remove_dir_all(&self.home);
        }
    }
}

/// A test's hold on [`Aws::shared`].
#[derive(Debug)]
pub struct Shared(&'static Aws);

impl Deref for Shared {
    type Target = Aws;

    fn deref(&self) -> &Aws {
        self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.0.show_failure();
    }
}

/// A policy document of IAM of permissions by what they are for, as infra/permissions.json lists those of a
/// function; `resource` gives the ARN of what a name there stands for.
pub fn policy(
    permissions: &BTreeMap<String, Vec<String>>,
    resource: impl Fn(&str) -> String,
) -> String {
    let statements: Vec<Value> = permissions
        .iter()
        .map(|(what, actions)| {
            let mut actions = actions.clone();
            // The emulator asks for an action that IAM does not have: there a message's includes batches.
            if actions.iter().any(|action| action == "sqs:SendMessage") {
                actions.push("sqs:SendMessageBatch".to_owned());
            }
            json!({ "Effect": "Allow", "Action": actions, "Resource": resource(what) })
        })
        .collect();
    json!({ "Version": "2012-10-17", "Statement": statements }).to_string()
}

fn healthy(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(
            b"GET /_ministack/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        )?;
        let mut start = [0; 12];
        match stream.read_exact(&mut start) {
            Ok(()) => Ok(start.ends_with(b" 200")),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(e),
        }
    };
    ask().unwrap_or(false)
}
