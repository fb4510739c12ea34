//! A small file system that a test fills and empties again.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

/// Size of the file system, as an option of `mount`. A full one takes as much memory.
const SIZE: &str = "size=64m";
/// Bytes of each write while the file system is filled.
const PIECE: usize = 64 * 1024;

/// A file system in memory, mounted on a directory of its own. Dropping it unmounts it.
pub(crate) struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts a new file system; `None`, with a printed reason, if this user may not mount.
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

    /// Fills the file system until no byte is free.
    pub(crate) fn fill(&self) {
        let mut file = File::create(self.ballast()).unwrap();
        let piece = vec![0; PIECE];
        while file.write(&piece).is_ok_and(|written| written > 0) {}
    }

    /// Frees the space that [`fill`](Self::fill) took.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The unmount is lazy, because a process that a failed test left may still have a file open.
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
    }
}
