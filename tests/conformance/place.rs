//! Directories of a test, and what is expected of drivers that can reclaim on Linux alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use latent_worker::testing::conformance::Report;

pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lw-conformance-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    #[allow(dead_code, reason = "some sets of drivers need no path")]
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// What is in a directory.
    #[cfg(any(feature = "command", feature = "local"))]
    pub(crate) fn names(directory: &Path) -> Vec<String> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
pub(crate) fn expect_all_but(report: &Report, not_tried: &[&str]) {
    if cfg!(target_os = "linux") { report.expect_all_but(not_tried) } else { report.assert() }
}
