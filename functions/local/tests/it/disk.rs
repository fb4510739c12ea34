//! A small disk of its own, which a test fills and empties again.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

/// Bytes that a disk takes. All of it is memory while it is full.
const SIZE: &str = "size=64m";
/// Bytes that are written at once while it is filled.
const PIECE: usize = 64 * 1024;

/// A file system in memory, mounted on a directory of its own. Dropping it unmounts it.
pub(crate) struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts a new one; `None`, and a line that says so, where this user may not mount anything.
    pub(crate) fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", SIZE, "tmpfs"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            println!("no disk is filled: this user may not mount a file system");
            return None;
        }
        Some(Self { folder })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) {
        let mut file = File::create(self.ballast()).unwrap();
        let piece = vec![0; PIECE];
        while file.write(&piece).is_ok_and(|written| written > 0) {}
    }

    /// Frees again what [`fill`](Self::fill) took.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a process that a failed test left may still have a file open.
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
    }
}
