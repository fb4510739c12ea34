//! Tests of two users of one state: the service's user writes it, and root looks at it.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    running::{Running, output, text},
    served::Stage,
};

/// User id of the service: `nobody` on every Linux.
const SERVICE: u32 = 65_534;

/// A service that runs as another user than root.
struct Service {
    stage: Stage,
    /// Path of a copy of the program that every user can run.
    program: PathBuf,
}

impl Service {
    /// Prepares the service; `None`, with a printed reason, if this process cannot run as another user.
    async fn new() -> Option<Self> {
        let stage = Stage::new().await;
        if fs::metadata(stage.state.path()).unwrap().uid() != 0 {
            println!("skipped: only root can run a process of another user");
            return None;
        }
        // By default only root can enter the temporary directory.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(stage.state.path(), open).unwrap();
        let program = stage.state.path().join("vt");
        fs::copy(env!("CARGO_BIN_EXE_vt"), &program).unwrap();
        let service = Self { stage, program };
        fs::create_dir(service.state()).unwrap();
        chown(service.state(), Some(SERVICE), Some(SERVICE)).unwrap();
        Some(service)
    }

    fn state(&self) -> PathBuf {
        self.stage.state.path().join("state")
    }

    /// Returns the command `vt` that runs as the service's user.
    fn vt(&self, args: &[&str]) -> Command {
        let like = self.by_root(args);
        let mut command = Command::new(&self.program);
        command.args(args).env_clear().uid(SERVICE).gid(SERVICE).current_dir("/");
        for (name, value) in like.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command
    }

    fn by_root(&self, args: &[&str]) -> Command {
        let mut command = self.stage.vt(args);
        command.env("STATEDIR", self.state()).env("DISPATCHER_MAX_AGE_HOURS", "-1");
        command.env("FEED_BACKLOG_HOURS", "0");
        command
    }

    /// Asserts that the service's user owns everything under STATEDIR.
    fn is_all_the_services(&self) {
        let owned = |path: &Path| {
            let uid = fs::symlink_metadata(path).unwrap().uid();
            assert_eq!(uid, SERVICE, "{}", path.display());
        };
        let mut folders = vec![self.state()];
        while let Some(folder) = folders.pop() {
            owned(&folder);
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                owned(&path);
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_looks_at_the_state_of_a_service_and_takes_nothing_from_it() {
    let Some(service) = Service::new().await else { return };
    let looks: [&[&str]; 6] = [
        &["status"],
        &["status", "--json"],
        &["quota"],
        &["rejects", "list"],
        &["load", "--dry-run"],
        &["doctor"],
    ];
    let look = async || {
        for args in looks {
            let looked = output(service.by_root(args)).await;
            let said = text(&looked.stderr);
            assert_eq!(looked.status.code(), Some(0), "{args:?}: {said} {}", text(&looked.stdout));
            service.is_all_the_services();
        }
    };
    // Before the first run, too, a look makes no file that the service could not use.
    look().await;
    let loaded = output(service.vt(&["load"])).await;
    assert_eq!(loaded.status.code(), Some(0), "{}", text(&loaded.stderr));
    look().await;
    let mut command = service.vt(&["serve"]);
    command.env("SERVE_LISTEN", "127.0.0.1:0").env("INGEST_LISTEN", "127.0.0.1:0");
    let (running, url) = Running::serve(command);
    look().await;
    let health = reqwest::get(format!("{url}/health")).await.unwrap();
    assert_eq!(health.status().as_u16(), 200, "{}", health.text().await.unwrap());
    // Files that root writes belong to the service's user as well.
    let minute = cursor(&service).await;
    let replayed = output(service.by_root(&["retry", "--minute", &minute])).await;
    assert_eq!(replayed.status.code(), Some(0), "{}", text(&replayed.stderr));
    service.is_all_the_services();
    running.terminate();
    let (status, said) = running.end().await;
    assert!(status.success(), "{said}");
    let again = output(service.vt(&["load"])).await;
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stderr));
}

/// Returns the last minute that is done.
async fn cursor(service: &Service) -> String {
    let looked = output(service.by_root(&["status", "--json"])).await;
    let status: serde_json::Value = serde_json::from_slice(&looked.stdout).unwrap();
    status["cursor"].as_str().unwrap().to_owned()
}
