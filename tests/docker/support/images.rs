//! Images that the tests make themselves, from files that are here: no registry is asked.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::engine::Engine;

const AGENT: &[&str] = &["/bin/agent", "/work"];

/// An image of one test, removed with it.
pub(crate) struct Image {
    engine: Engine,
    reference: String,
    /// What it has even when a test takes its name away.
    id: Option<String>,
}

impl Image {
    /// Starts the agent. The file `/kind` says which kind it is.
    pub(crate) fn agent(engine: &Engine, kind: &str) -> Self {
        Self::build(engine, kind, AGENT, true)
    }

    /// Has no program, and wants to start one.
    pub(crate) fn empty(engine: &Engine) -> Self {
        Self::build(engine, "empty", AGENT, false)
    }

    /// Runs this line of shell instead of an agent.
    pub(crate) fn shell(engine: &Engine, line: &str) -> Self {
        Self::build(engine, "shell", &["/bin/sh", "-c", line], true)
    }

    /// A name for an image that somebody else builds.
    pub(crate) fn to_be_built(engine: &Engine) -> Self {
        Self { engine: engine.clone(), reference: format!("lw-test/{}", unique(":")), id: None }
    }

    fn build(engine: &Engine, kind: &str, command: &[&str], with_programs: bool) -> Self {
        let context = Context::with(kind, command, with_programs);
        let mut image = Self::to_be_built(engine);
        engine.build(image.reference(), &archive(context.path()));
        image.id = engine.image(image.reference());
        image
    }

    pub(crate) fn reference(&self) -> &str {
        &self.reference
    }

    /// Unique, whatever the repository.
    pub(crate) fn tag(&self) -> &str {
        self.reference.rsplit_once(':').expect("there is one").1
    }
}

/// A test may have removed it already, or the engine.
impl Drop for Image {
    fn drop(&mut self) {
        for name in std::iter::once(&self.reference).chain(&self.id) {
            self.engine.try_remove_image(name);
        }
    }
}

/// A directory that an image is built from, gone with this. What the image has is in `root`.
pub(crate) struct Context(PathBuf);

impl Context {
    /// Of an image with the agent.
    pub(crate) fn agent(kind: &str) -> Self {
        Self::with(kind, AGENT, true)
    }

    fn with(kind: &str, command: &[&str], with_programs: bool) -> Self {
        let name = unique("-");
        let context = Self(std::env::temp_dir().join(format!("lw-context-{name}")));
        let bin = context.0.join("root/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(context.0.join("root/kind"), kind).unwrap();
        if with_programs {
            fs::copy(static_agent(), bin.join("agent")).unwrap();
            fs::copy(busybox(), bin.join("busybox")).unwrap();
            for applet in ["cat", "echo", "readlink", "sh", "sleep", "tail", "true"] {
                symlink("busybox", bin.join(applet)).unwrap();
            }
        }
        let command = serde_json::json!(command);
        // The label makes it an image like no other, whatever else is in there.
        let lines = ["FROM scratch", "COPY root /", "ENV PATH=/bin", "WORKDIR /work", &format!("LABEL made-by={name}")];
        fs::write(context.0.join("Dockerfile"), format!("{}\nCMD {command}\n", lines.join("\n"))).unwrap();
        context
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What is in a directory, as engines and registries take it.
pub(crate) fn archive(directory: &Path) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    archive.follow_symlinks(false);
    archive.append_dir_all("", directory).unwrap();
    archive.into_inner().unwrap()
}

/// `pid`, and a number that this process has used for nothing else.
fn unique(between: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{}{between}{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The program `examples/agent`, which needs no library.
fn static_agent() -> PathBuf {
    std::env::var_os("TEST_AGENT").expect("TEST_AGENT names examples/agent, built as a static program").into()
}

/// Of Debian's busybox-static, say.
pub(crate) fn busybox() -> PathBuf {
    let places = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    places.into_iter().find(|path| path.exists()).expect("busybox, as the package busybox-static has it")
}
