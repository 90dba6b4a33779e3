//! Instances on this machine: a private directory each, with commands as child processes. Nothing to install.
//!
//! [`LocalLatentWorker`] makes and removes the directories; `agent` says what a command means here; `process` runs one;
//! `files` copies what builds bring and take.
//! It keeps instances apart, it does not lock them in: a command has all the rights of this process.

mod agent;
mod files;
mod process;
mod supervisors;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::directory::{create, remove, remove_left};
use super::orphans::{Survivors, kill_marked, nothing_found};
use crate::{Attachment, BoxError, Cancelled, Health, Kind, LatentWorker, Leftover, Properties, Reclaimed};
use crate::{StartError, StartRequest, Started, StopError, StopRequest};

use agent::Environment;
pub use agent::LocalAgent;

/// The kind of an instance whose build asks for none.
const DEFAULT_KIND: &str = "default";
/// What every command has in its environment: the directory of its instance.
const INSTANCE_VARIABLE: &str = "LATENT_WORKER_INSTANCE";
/// How long a stop waits for commands that were killed.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// A driver whose instances are directories on this machine. Unix only.
///
/// A start creates a directory that only this user can enter, fills it when its [kind](LocalKind) has a template, and
/// attaches a [`LocalAgent`]; it needs nothing but a file system. Builds run their commands there, each as a child
/// process in a process group of its own. A stop kills what still runs, at once, and removes the directory; on Linux
/// that includes every process that has the directory as `LATENT_WORKER_INSTANCE` in its environment.
///
/// A build chooses the kind of its instance with a property; without the property it gets the kind `default`, which is
/// empty unless it is replaced. An idle instance is only used for builds of its own kind.
///
/// When this process is killed itself, directories (`latent-worker-…` in the root) and running commands are left
/// behind. With a [journal](crate::MasterBuilder::journal) the next one removes them: a directory by its recorded path,
/// and on Linux every process that has this path as `LATENT_WORKER_INSTANCE` in its environment, with the groups that
/// such processes lead. A command that takes this variable from its processes hides them.
///
/// ```
/// use latent_worker::{LocalKind, LocalLatentWorker};
///
/// let driver = LocalLatentWorker::new()
///     .root("/var/tmp/builds")
///     .kind_property("flavour")
///     .kind("rust", LocalKind::new().template("/srv/templates/rust").env("CARGO_TERM_COLOR", "never"));
/// ```
#[derive(Clone, Debug)]
pub struct LocalLatentWorker {
    root: PathBuf,
    property: String,
    kinds: BTreeMap<String, LocalKind>,
    survivors: Survivors,
}

impl LocalLatentWorker {
    /// Instances of the kind `default` alone, in [`std::env::temp_dir`]. Other kinds are chosen by the property `kind`.
    pub fn new() -> Self {
        let kinds = BTreeMap::from([(DEFAULT_KIND.to_owned(), LocalKind::new())]);
        Self {
            root: absolute(std::env::temp_dir()),
            property: "kind".to_owned(),
            kinds,
            survivors: Survivors::default(),
        }
    }

    /// Where the directories of instances are made. It is created when it does not exist, and never removed. A relative
    /// path counts from the directory that is current now.
    #[must_use]
    pub fn root(mut self, path: impl Into<PathBuf>) -> Self {
        self.root = absolute(path.into());
        self
    }

    /// The name of the build property that chooses the kind; `kind` by default.
    #[must_use]
    pub fn kind_property(mut self, name: impl Into<String>) -> Self {
        self.property = name.into();
        self
    }

    /// Adds a kind, or replaces the one of that name. The kind for builds that choose none is named `default`.
    #[must_use]
    pub fn kind(mut self, name: impl Into<String>, kind: LocalKind) -> Self {
        self.kinds.insert(name.into(), kind);
        self
    }

    fn kind_of<'a>(&self, properties: &'a Properties) -> &'a str {
        properties.get(&self.property).unwrap_or(DEFAULT_KIND)
    }

    fn find_kind<'a>(&'a self, properties: &'a Properties) -> Result<(&'a str, &'a LocalKind), String> {
        let name = self.kind_of(properties);
        self.kinds.get(name).map(|kind| (name, kind)).ok_or_else(|| {
            let known: Vec<_> = self.kinds.keys().map(String::as_str).collect();
            let known = known.join(", ");
            format!("the property {} asks for the kind {name:?}; there are: {known}", self.property)
        })
    }

    /// From the key alone, so that the stop finds it too when the start has not returned an instance.
    fn directory(&self, key: &str) -> PathBuf {
        self.root.join(directory_name(key))
    }
}

fn directory_name(key: &str) -> String {
    format!("latent-worker-{key}")
}

impl Default for LocalLatentWorker {
    fn default() -> Self {
        Self::new()
    }
}

impl LatentWorker for LocalLatentWorker {
    type Instance = LocalInstance;

    /// # Errors
    ///
    /// `CannotSubstantiate` when the build asks for a kind that there is not. Everything else is an infrastructure
    /// failure: the directory cannot be made, the template cannot be copied or the attempt was cancelled. What was
    /// made by then is left to [`stop_instance`](LatentWorker::stop_instance). A cancel is noticed between two files.
    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<LocalInstance>, StartError> {
        let properties = start.properties();
        let (name, kind) = self.find_kind(&properties).map_err(StartError::cannot)?;
        let directory = self.directory(start.key());
        // Before it is there, so that it cannot be there and nobody knows. A path that is no text is found by the key.
        if let Some(path) = directory.to_str() {
            start.record(path)?;
        }
        create(&directory).map_err(|error| failure("cannot create", &directory, &error))?;
        if let Some(template) = &kind.template {
            start.progress(&format!("copying {}", template.display()));
            copy_template(template, &directory, &|| start.cancelled())?;
        }
        let agent = LocalAgent::new(directory.clone(), kind.environment.clone(), self.survivors.clone());
        // The last step that can fail, so that every error above is that of a start without an agent.
        let attachment = start.attacher().attach(agent.clone())?;
        let instance = LocalInstance { kind: name.to_owned(), agent, _attachment: attachment };
        Ok(Started::new(instance).detail(name).detail(directory.display().to_string()))
    }

    /// Kills all commands, waits for their end (10 s at most) and removes the directory. There is no grace, so that a
    /// fast stop is no different.
    ///
    /// # Errors
    ///
    /// When the directory cannot be removed, or when a command outlives its kill: it is stuck in the kernel, or it has
    /// changed its user. The directory is removed all the same.
    fn stop_instance(&self, stop: StopRequest<LocalInstance>) -> Result<(), StopError> {
        let directory = self.directory(stop.key());
        // Kept to the end: dropping it detaches the agent.
        let instance = stop.into_instance();
        let ended = instance.as_ref().is_none_or(|instance| instance.agent.close_and_wait(KILL_PATIENCE));
        // A process that has left the group of its command is found by its environment. This is slow.
        let escaped = match &instance {
            Some(instance) if instance.agent.has_run() => {
                kill_marked(INSTANCE_VARIABLE, directory.as_os_str(), KILL_PATIENCE)
            }
            _ => Ok(()),
        };
        remove(&directory)?;
        escaped?;
        self.survivors.check(&directory)?;
        if !ended {
            let reason = format!("a command in {} still runs after it was killed", directory.display());
            return Err(StopError::new(reason));
        }
        Ok(())
    }

    /// Kills the processes that a dead master has left (on Linux), waits for their end, and removes the directory; see
    /// [`LocalLatentWorker`]. Elsewhere such processes cannot be found, and are for people to look after:
    /// [`Reclaimed::Unsupported`].
    ///
    /// # Errors
    ///
    /// When the directory cannot be removed, when a process outlives its kill for 10 s, and when what is recorded is
    /// not the directory of an instance.
    fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, StopError> {
        let name = directory_name(leftover.key());
        let mut directories = BTreeSet::from([self.directory(leftover.key())]);
        for id in leftover.ids() {
            let path = PathBuf::from(id);
            if !path.is_absolute() || path.file_name() != Some(&OsString::from(&name)) {
                return Err(StopError::new(format!("{id:?} is not the directory of an instance; nothing was touched")));
            }
            directories.insert(path);
        }
        for directory in directories {
            let ended = kill_marked(INSTANCE_VARIABLE, directory.as_os_str(), KILL_PATIENCE);
            remove_left(&directory, leftover)?;
            ended?;
            self.survivors.check(&directory)?;
        }
        Ok(nothing_found())
    }

    /// Bad when the directory is gone.
    fn check_instance(&self, instance: &LocalInstance) -> Health {
        if instance.directory().is_dir() {
            return Health::Good;
        }
        Health::bad(format!("the directory {} is gone", instance.directory().display()))
    }

    /// True: a build may ask for a kind that does not exist, and an instance that is up must not take it.
    fn builds_may_be_incompatible(&self) -> bool {
        true
    }

    /// True.
    fn says_kinds(&self) -> bool {
        true
    }

    /// The name of the [`LocalKind`].
    ///
    /// # Errors
    ///
    /// When the build asks for a kind that there is not.
    fn kind(&self, properties: &Properties) -> Result<Kind, BoxError> {
        let (name, _) = self.find_kind(properties)?;
        Ok(Kind::new(name))
    }

    /// Whether the build asks for the kind of this instance.
    fn is_compatible_with_build(&self, instance: &LocalInstance, properties: &Properties) -> Result<bool, BoxError> {
        Ok(instance.kind == self.kind_of(properties))
    }
}

/// What the instances of one kind have in common.
#[derive(Clone, Default)]
pub struct LocalKind {
    template: Option<PathBuf>,
    environment: Environment,
}

impl LocalKind {
    /// An empty directory and the environment of this process.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every instance begins as a copy of what is in this directory. Permissions and times of change are kept, so that
    /// the outcome of an earlier build is of use; symbolic links are copied as such. Anything else than files,
    /// directories and links is an error, and so is a template that the instances would be part of. A relative path
    /// counts from the directory that is current now.
    #[must_use]
    pub fn template(mut self, directory: impl Into<PathBuf>) -> Self {
        self.template = Some(absolute(directory.into()));
        self
    }

    /// Sets a variable for all commands; a command can change it for itself.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.insert(name.into(), Some(value.into()));
        self
    }

    /// Keeps a variable of this process from the commands.
    #[must_use]
    pub fn env_remove(mut self, name: impl Into<String>) -> Self {
        self.environment.insert(name.into(), None);
        self
    }
}

/// Shows the names of variables, not their values: they may be secrets.
impl fmt::Debug for LocalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKind")
            .field("template", &self.template)
            .field("environment", &self.environment.keys())
            .finish()
    }
}

/// An instance of [`LocalLatentWorker`].
#[derive(Debug)]
pub struct LocalInstance {
    kind: String,
    agent: LocalAgent,
    _attachment: Attachment,
}

impl LocalInstance {
    /// The name of its kind.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Its directory, an absolute path.
    pub fn directory(&self) -> &Path {
        self.agent.directory()
    }
}

/// The process may change its directory between a start and its stop. Fails only for an empty path, which then fails
/// where it is used.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

fn failure(what: &str, path: &Path, error: &io::Error) -> StartError {
    StartError::infrastructure(format!("{what} {}: {error}", path.display()))
}

fn copy_template(template: &Path, directory: &Path, cancelled: &dyn Fn() -> bool) -> Result<(), StartError> {
    let inside = fs::canonicalize(directory)
        .and_then(|directory| Ok(directory.starts_with(fs::canonicalize(template)?)))
        .map_err(|error| failure("cannot read the template", template, &error))?;
    if inside {
        let error = io::Error::new(ErrorKind::InvalidInput, "the directories of instances are inside it");
        return Err(failure("cannot copy the template", template, &error));
    }
    let mut below = vec![(template.to_owned(), directory.to_owned())];
    // Done after everything is copied: a directory may be read-only.
    let mut copied = Vec::new();
    while let Some((from, to)) = below.pop() {
        copy_entries(&from, &to, &mut below, &mut copied, cancelled)?;
    }
    for (from, to, metadata) in copied.into_iter().rev() {
        let copy_failed = |error: io::Error| failure("cannot copy", &from, &error);
        fs::set_permissions(&to, metadata.permissions()).map_err(copy_failed)?;
        keep_times(&to, &metadata).map_err(copy_failed)?;
    }
    Ok(())
}

/// Copies the entries of one directory. Its subdirectories are created, and added to the list of directories to copy.
fn copy_entries(
    from: &Path,
    to: &Path,
    below: &mut Vec<(PathBuf, PathBuf)>,
    copied: &mut Vec<(PathBuf, PathBuf, fs::Metadata)>,
    cancelled: &dyn Fn() -> bool,
) -> Result<(), StartError> {
    for entry in fs::read_dir(from).map_err(|error| failure("cannot read", from, &error))? {
        if cancelled() {
            return Err(Cancelled.into());
        }
        let entry = entry.map_err(|error| failure("cannot read", from, &error))?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let copy_failed = |error: io::Error| failure("cannot copy", &from, &error);
        let metadata = fs::symlink_metadata(&from).map_err(copy_failed)?;
        if metadata.is_dir() {
            fs::DirBuilder::new().mode(0o700).create(&to).map_err(copy_failed)?;
            below.push((from.clone(), to.clone()));
            copied.push((from, to, metadata));
            continue;
        }
        if metadata.is_symlink() {
            fs::read_link(&from).and_then(|target| std::os::unix::fs::symlink(target, &to)).map_err(copy_failed)?;
        } else if metadata.is_file() {
            fs::copy(&from, &to).map_err(copy_failed)?;
        } else {
            // Opening it could block for ever.
            let what = "it is not a file, a directory or a symbolic link";
            return Err(copy_failed(io::Error::new(ErrorKind::InvalidInput, what)));
        }
        keep_times(&to, &metadata).map_err(copy_failed)?;
    }
    Ok(())
}

/// Tools like make and cargo tell by these times what is to be built again.
fn keep_times(path: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: metadata.atime(), tv_nsec: metadata.atime_nsec() },
        last_modification: Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() },
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// What the tests of this folder share.
#[cfg(test)]
mod testing {
    use super::*;
    use crate::{CommandEnd, Output, Process};
    use crossbeam_channel::{Receiver, bounded};

    /// How long a test waits for what should come at once.
    pub(super) const PATIENCE: Duration = Duration::from_secs(60);

    /// A directory for one test, removed with it.
    pub(super) struct Place(PathBuf);

    impl Place {
        pub(super) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("latent-worker-test-{name}-{}", std::process::id()));
            remove(&path).unwrap();
            create(&path).unwrap();
            // What a shell calls its directory has no links in it.
            Self(fs::canonicalize(path).unwrap())
        }

        pub(super) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = remove(&self.0);
        }
    }

    /// Does something that blocks on a thread of its own, so that a test need not wait for ever.
    pub(super) fn tell<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let (sender, receiver) = bounded(1);
        std::thread::spawn(move || sender.send(work()));
        receiver
    }

    /// Reads a command to its end, and that nothing follows.
    pub(super) fn collect(process: &Process) -> (Vec<u8>, Vec<u8>, CommandEnd) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let end = loop {
            match process.output().recv_timeout(PATIENCE).expect("a command that does not end") {
                Output::Stdout(piece) => stdout.extend(piece),
                Output::Stderr(piece) => stderr.extend(piece),
                Output::End(end) => break end,
                Output::Failed(reason) => panic!("{reason}"),
            }
        };
        assert!(process.output().recv_timeout(PATIENCE).unwrap_err().is_disconnected());
        (stdout, stderr, end)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::testing::Place;
    use super::*;

    const NEVER: &dyn Fn() -> bool = &|| false;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_new_directory_is_private_and_was_not_there_before() {
        let place = Place::new("create");
        let directory = place.path().join("root/below/instance");
        create(&directory).unwrap();
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(create(&directory).unwrap_err().kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_copy_keeps_permissions_times_and_links() {
        let place = Place::new("copy");
        let (template, copy) = (place.path().join("template"), place.path().join("copy"));
        fs::create_dir_all(template.join("locked/deep")).unwrap();
        fs::write(template.join("locked/deep/tool"), "run me").unwrap();
        set_mode(&template.join("locked/deep/tool"), 0o555);
        let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_123);
        fs::write(template.join("old"), "").unwrap();
        fs::File::options().write(true).open(template.join("old")).unwrap().set_modified(old).unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", template.join("dangling")).unwrap();
        std::os::unix::fs::symlink("..", template.join("loop")).unwrap();
        set_mode(&template.join("locked"), 0o555);

        create(&copy).unwrap();
        copy_template(&template, &copy, NEVER).unwrap();
        assert_eq!(fs::read(copy.join("locked/deep/tool")).unwrap(), b"run me");
        assert_eq!(mode(&copy.join("locked/deep/tool")), 0o555);
        assert_eq!(mode(&copy.join("locked")), 0o555);
        assert_eq!(fs::metadata(copy.join("old")).unwrap().modified().unwrap(), old);
        assert_eq!(fs::read_link(copy.join("dangling")).unwrap(), Path::new("/nowhere/at/all"));
        assert_eq!(fs::read_link(copy.join("loop")).unwrap(), Path::new(".."));
        remove(&copy).unwrap();
        assert!(!copy.exists());
    }

    #[test]
    fn a_copy_ends_when_the_start_is_cancelled() {
        let place = Place::new("cancel");
        let template = place.path().join("template");
        fs::create_dir_all(&template).unwrap();
        (0..5).for_each(|number| fs::write(template.join(number.to_string()), "").unwrap());
        let copy = place.path().join("copy");
        create(&copy).unwrap();
        let asked = std::cell::Cell::new(0);
        let cancelled = || asked.replace(asked.get() + 1) == 2;
        let error = copy_template(&template, &copy, &cancelled).unwrap_err();
        assert!(error.to_string().contains(&Cancelled.to_string()), "{error}");
        assert_eq!(fs::read_dir(&copy).unwrap().count(), 2);
    }

    #[test]
    fn templates_that_cannot_be_copied_are_errors_that_name_them() {
        let place = Place::new("bad-template");
        let template = place.path().join("template");
        let copy = place.path().join("copy");
        create(&copy).unwrap();
        let error = |directory: &Path| copy_template(&template, directory, NEVER).unwrap_err().to_string();
        assert!(error(&copy).contains(&format!("cannot read the template {}: No such", template.display())));
        fs::create_dir(&template).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(template.join("socket")).unwrap();
        assert!(error(&copy).contains("template/socket: it is not a file"));
        let inside = template.join("root/instance");
        create(&inside).unwrap();
        assert!(error(&inside).ends_with("the directories of instances are inside it"));
    }

    #[test]
    fn removing_what_is_gone_succeeds_and_never_follows_links() {
        let place = Place::new("remove");
        let directory = place.path().join("instance");
        remove(&directory).unwrap();
        create(&directory).unwrap();
        fs::create_dir(place.path().join("outside")).unwrap();
        fs::write(place.path().join("outside/kept"), "").unwrap();
        set_mode(&place.path().join("outside"), 0o500);
        std::os::unix::fs::symlink("../outside", directory.join("link")).unwrap();
        fs::create_dir_all(directory.join("locked/deep")).unwrap();
        fs::write(directory.join("locked/deep/file"), "").unwrap();
        set_mode(&directory.join("locked/deep"), 0o000);
        set_mode(&directory.join("locked"), 0o500);
        remove(&directory).unwrap();
        assert!(!directory.exists());
        assert!(place.path().join("outside/kept").exists());
        assert_eq!(mode(&place.path().join("outside")), 0o500);
    }

    #[test]
    fn w11_an_instance_is_compatible_with_builds_of_its_kind_alone() {
        let driver = LocalLatentWorker::new().kind("rust", LocalKind::new());
        assert!(driver.builds_may_be_incompatible() && driver.says_kinds());
        let kind = |properties: &[(&str, &str)]| {
            let kind = LatentWorker::kind(&driver, &properties.iter().copied().collect());
            kind.map_err(|error| error.to_string())
        };
        assert_eq!(kind(&[]), Ok(Kind::new("default")));
        assert_eq!(kind(&[("kind", "rust"), ("other", "x")]), Ok(Kind::new("rust")));
        let error = kind(&[("kind", "rusty")]).unwrap_err();
        assert_eq!(error, "the property kind asks for the kind \"rusty\"; there are: default, rust");
    }

    #[test]
    fn the_values_of_variables_are_not_shown() {
        let shown = format!("{:?}", LocalLatentWorker::new().kind("a", LocalKind::new().env("TOKEN", "hush")));
        assert!(shown.contains("TOKEN") && !shown.contains("hush"), "{shown}");
    }
}
