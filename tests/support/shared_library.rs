//! The shared library, built as anybody would build it for other languages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What other languages are offered.
pub(crate) const FEATURES: &str = "capi,local,command,process,agent";

/// The folder that it is in. Built once, into a folder of its own: the features are others than those of the test.
pub(crate) fn library_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi").join("target");
        let built = Command::new(env!("CARGO"))
            .args(["rustc", "--lib", "--no-default-features", "--features", FEATURES, "--crate-type", "cdylib"])
            .arg("--target-dir")
            .arg(&target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        target.join("debug")
    })
}
