//! The SQLite file: how it is opened, its schema, and how a call reaches it from async code.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::{StoreError, adopt, unusable};

/// Application id in the file (the letters `AzVt`), so that another program's database is not taken for state.
const APPLICATION_ID: i64 = 0x417a_5674;

/// Longest wait of a call for another process that writes. Writes take milliseconds, so only an overloaded machine
/// comes near it.
const BUSY: Duration = Duration::from_secs(30);

/// Steps of the schema, one for each version: `user_version` counts the steps that were done. A released step is never
/// changed; new steps are added at the end.
///
/// Times are whole numbers. They are nanoseconds since 1970, except `cursors.position` and `ledger.minute`, which are
/// seconds since 1970. Days are the number YYYYMMDD.
const SCHEMA: &[&str] = &[
    "
    CREATE TABLE cursors (
        name     TEXT PRIMARY KEY,
        position INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- A row stays when its lease is given back: the fence must go on growing.
    CREATE TABLE leases (
        name    TEXT PRIMARY KEY,
        owner   TEXT NOT NULL,
        since   INTEGER NOT NULL,
        renewed INTEGER NOT NULL,
        fence   INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE ledger (
        minute     INTEGER PRIMARY KEY,
        state      TEXT NOT NULL,
        bundle     TEXT,
        lines_done INTEGER,
        kind       TEXT,
        reason     TEXT,
        attempts   INTEGER,
        next_try   INTEGER,
        records    INTEGER NOT NULL,
        delivered  INTEGER NOT NULL,
        filtered   INTEGER NOT NULL,
        rejected   INTEGER NOT NULL,
        requests   INTEGER NOT NULL,
        bad_values INTEGER NOT NULL,
        replaced_utf8 INTEGER NOT NULL,
        updated    INTEGER NOT NULL
    ) STRICT;
    -- Unfinished minutes are few, so going through all of them in order finds those that are due.
    CREATE INDEX ledger_unfinished ON ledger (minute, next_try)
        WHERE state IN ('gap', 'planned', 'loading');

    CREATE TABLE memory (
        kind    TEXT NOT NULL,
        id      TEXT NOT NULL,
        expires INTEGER NOT NULL,
        PRIMARY KEY (kind, id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX memory_expires ON memory (expires);

    CREATE TABLE quota_places (
        day      INTEGER NOT NULL,
        category TEXT NOT NULL,
        id       TEXT NOT NULL,
        stage    INTEGER NOT NULL,
        PRIMARY KEY (day, category, id)
    ) STRICT, WITHOUT ROWID;
    -- The number of rows in quota_places, kept so that a reservation need not count them.
    CREATE TABLE quota_used (
        day      INTEGER NOT NULL,
        category TEXT NOT NULL,
        used     INTEGER NOT NULL,
        PRIMARY KEY (day, category)
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE inbox (
        queue    TEXT NOT NULL,
        id       TEXT NOT NULL,
        body     TEXT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        since    INTEGER NOT NULL,
        -- Nobody gets it before; while it is taken, the end of its taker's time.
        due      INTEGER NOT NULL,
        taken    INTEGER NOT NULL DEFAULT 0,
        -- Counts the takers: what an earlier one says does not count.
        receipt  INTEGER NOT NULL DEFAULT 0,
        buried   TEXT,
        PRIMARY KEY (queue, id)
    ) STRICT;
    CREATE INDEX inbox_due ON inbox (queue, due, since, id) WHERE buried IS NULL;

    CREATE TABLE budget (
        number  INTEGER PRIMARY KEY,
        name    TEXT NOT NULL,
        granted INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX budget_granted ON budget (name, granted, number);
",
    "
    -- Takers in a row that left it unended.
    ALTER TABLE inbox ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
",
    "
    -- The outage that an item waits for, or did last: since when it is known, and when it was last.
    ALTER TABLE inbox ADD COLUMN outage_since INTEGER;
    ALTER TABLE inbox ADD COLUMN outage_last INTEGER;
",
    "
    -- When `due` and `expires` were written: what a clock wrote that was ahead does not count.
    ALTER TABLE inbox ADD COLUMN written INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE memory ADD COLUMN written INTEGER NOT NULL DEFAULT 0;
",
    "
    -- Whose outage it is; NULL: VirusTotal's, as all were before.
    ALTER TABLE inbox ADD COLUMN outage_peer TEXT;
",
];

/// Error inside of a call, where the attempted action is not known yet.
pub(super) enum Fault {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The database, shared by the capabilities.
///
/// There is one connection behind one lock. SQLite has one writer at a time anyway, and each call takes well under a
/// millisecond plus its flush to disk. So the calls of one process never wait for each other in SQLite's busy timeout.
/// The lock is tokio's, which is fair. It is taken before a blocking thread is, so that any number of waiting tasks
/// occupies one thread.
#[derive(Clone)]
pub(super) struct Db {
    connection: Arc<Mutex<Connection>>,
    path: PathBuf,
}

impl Db {
    /// Opens the database, and creates or updates its schema. Only one process may call it at a time.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        // The file is created here, because SQLite would let everybody read it; SQLite gives its mode to `-wal` as
        // well. An existing file is not opened this way, because closing it would drop the locks that another
        // connection of this process holds on it.
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(path, e)),
            _ => {}
        }
        adopt(path).map_err(|e| unusable(path, e))?;
        let mut connection = Connection::open(path).map_err(|e| unusable(path, e))?;
        prepare(&mut connection, path).map_err(|fault| refused(path, fault))?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), path: path.into() })
    }

    /// Opens an existing database for reading. It makes and changes nothing.
    pub(super) fn look(path: &Path) -> Result<Self, StoreError> {
        // If there is no write-ahead log, nobody has the database open, and it is complete. Opening it the usual way
        // would create a log and its index.
        let is_still = !wal(path).exists();
        let mut url =
            Url::from_file_path(path).map_err(|()| unusable(path, "its path is not absolute"))?;
        if is_still {
            url.set_query(Some("immutable=1"));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let opened = Connection::open_with_flags(url.as_str(), flags);
        let connection = opened.map_err(|e| unusable(path, e))?;
        let look = || {
            connection.busy_timeout(BUSY)?;
            recognise(&connection, path).map(drop)
        };
        look().map_err(|fault| refused(path, fault))?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), path: path.into() })
    }

    /// Runs `work`, which only reads. `action` completes "… failed".
    pub(super) async fn read<T: Send + 'static>(
        &self,
        action: impl Into<String>,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(action.into(), move |connection| work(connection)).await
    }

    /// Runs `work` in a transaction that holds the write lock from its start, so that what it reads is still valid when
    /// it writes. The changes are durable once this returns. If `work` returns an error, nothing is written.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        action: impl Into<String>,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(action.into(), move |connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        action: String,
        work: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        // The work runs in a task of its own. It takes its turn at the lock even if its caller, one of several futures
        // of a task, is not polled. Otherwise all others would wait for that caller.
        let connection = Arc::clone(&self.connection);
        let running = AbortOnDropHandle::new(tokio::spawn(async move {
            // The guard moves into the task, so a caller that is dropped meanwhile does not let the next one in early.
            let mut connection = connection.lock_owned().await;
            tokio::task::spawn_blocking(move || work(&mut connection)).await
        }));
        match running.await.flatten() {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Fault::Store(error))) => Err(error),
            Ok(Err(Fault::Sql(error))) if is_damage(&error) => Err(damaged(&self.path, &error)),
            Ok(Err(Fault::Sql(error))) => {
                Err(StoreError::Unavailable { action, source: error.into() })
            }
            Err(error) => Err(StoreError::Unavailable { action, source: error.into() }),
        }
    }
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<(), Fault> {
    connection.busy_timeout(BUSY)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let reason = format!("SQLite keeps its journal as `{mode}` there, not as a WAL");
        return Err(unusable(path, reason).into());
    }
    // FULL flushes the WAL at each commit. NORMAL would keep the file consistent, but a loss of power could undo the
    // last commits: a place in a quota would be free again, and a minute whose staged bundle is gone would be unloaded
    // again. A kill of the process loses nothing either way. The price is one flush for each write, and there is a
    // write for each batch, not for each record.
    connection.pragma_update(None, "synchronous", "FULL")?;

    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (found, known) = recognise(&transaction, path)?;
    let done = usize::try_from(found).unwrap_or(0);
    for step in SCHEMA.iter().skip(done) {
        transaction.execute_batch(step)?;
    }
    if found < known {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", known)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Returns the schema version of the database, and the newest one that is known here.
fn recognise(db: &Connection, path: &Path) -> Result<(i64, i64), Fault> {
    let known = i64::try_from(SCHEMA.len()).unwrap_or(i64::MAX);
    let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let id: i64 = db.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if id != APPLICATION_ID && (id != 0 || found != 0 || tables != 0) {
        let reason = "it is a SQLite database of another program; set STATEDIR to another \
                      directory"
            .to_owned();
        return Err(StoreError::Damaged { what: path.display().to_string(), reason }.into());
    }
    if found < 0 {
        let reason = format!("its schema version is {found}; move it away, or restore a copy");
        return Err(StoreError::Damaged { what: path.display().to_string(), reason }.into());
    }
    if found > known {
        return Err(StoreError::Newer { path: path.into(), found, known }.into());
    }
    Ok((found, known))
}

/// Returns the error for a database that cannot be opened.
fn refused(path: &Path, fault: Fault) -> StoreError {
    match fault {
        Fault::Store(error) => error,
        Fault::Sql(error) if is_damage(&error) => damaged(path, &error),
        Fault::Sql(error) => unusable(path, error),
    }
}

/// Returns the path of the write-ahead log of a database. It exists while a process has the database open, or after one
/// died with it open.
fn wal(path: &Path) -> PathBuf {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    wal.into()
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn damaged(path: &Path, error: &rusqlite::Error) -> StoreError {
    StoreError::Damaged {
        what: path.display().to_string(),
        reason: format!("{error}; move it away to start anew, or restore a copy"),
    }
}

/// Returns a time in nanoseconds since 1970, limited to the years 1677 to 2262 that fit into 64 bits.
pub(super) fn nanoseconds(time: Timestamp) -> i64 {
    let held = time.as_nanosecond().clamp(i128::from(i64::MIN), i128::from(i64::MAX));
    i64::try_from(held).unwrap_or(i64::MAX)
}

/// Converts nanoseconds since 1970 back to a time; it is the inverse of [`nanoseconds`].
pub(super) fn timestamp(nanoseconds: i64) -> Timestamp {
    // Every number of 64 bits is within the calendar.
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Converts a count to SQLite's signed integer, limited to its greatest value.
pub(super) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Converts a count back from SQLite's signed integer. `what` names the row in the error for a negative number.
pub(super) fn unsigned(count: i64, what: &str) -> Result<u64, StoreError> {
    u64::try_from(count).map_err(|_| StoreError::Damaged {
        what: what.to_owned(),
        reason: format!("a count is {count}"),
    })
}
