//! What an image is built from, as the archive that engines take: made while it is sent.

use std::collections::VecDeque;
use std::fs::{self, File, Metadata};
use std::io::{self, Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::EngineError;
use super::ignore::Ignored;

const DOCKERFILE: &str = "Dockerfile";
const IGNORE_FILE: &str = ".dockerignore";
/// Of an archive (POSIX.1, pax).
const BLOCK: usize = 512;

/// What an image is built from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BuildContext<'a> {
    /// The text of a Dockerfile; `COPY` and `ADD` find no files.
    Dockerfile(&'a str),
    /// A directory, and the path of the Dockerfile in it (`Dockerfile`, if none is given). What its `.dockerignore` says
    /// is left out; all files belong to root; sockets, pipes and devices are left out.
    Directory(&'a Path, Option<&'a str>),
}

impl BuildContext<'_> {
    pub(super) fn dockerfile(&self) -> &str {
        match self {
            Self::Directory(_, Some(dockerfile)) => dockerfile,
            _ => DOCKERFILE,
        }
    }

    pub(super) fn open(&self) -> Result<ContextReader, EngineError> {
        match self {
            Self::Dockerfile(text) => {
                let tar = tar_file(DOCKERFILE, text.as_bytes(), 0o644);
                let tar = tar.map_err(|error| EngineError::Context(error.to_string()))?;
                Ok(ContextReader { head: Cursor::new(tar), finished: true, ..ContextReader::default() })
            }
            Self::Directory(root, _) => ContextReader::of_directory(root, self.dockerfile()),
        }
    }
}

/// A whole archive with one file, of root.
pub(super) fn tar_file(name: &str, contents: &[u8], mode: u32) -> io::Result<Vec<u8>> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(contents.len() as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let mut builder = Builder::new(Vec::new());
    builder.append_data(&mut header, name, contents)?;
    builder.into_inner()
}

/// Reads as an archive of the context: never more than one directory's names and a piece of a file are in memory.
#[derive(Debug, Default)]
pub(super) struct ContextReader {
    root: PathBuf,
    ignored: Ignored,
    /// These are sent whatever is ignored: the engine needs them.
    needed: Vec<String>,
    /// Relative to the root, in the order in which they come.
    waiting: VecDeque<String>,
    /// Headers, ends of files, the end of all.
    head: Cursor<Vec<u8>>,
    /// And after that, the contents of a file.
    file: Option<OpenFile>,
    finished: bool,
    /// What went wrong: whoever asked for the build should hear this, not what became of the request.
    trouble: Option<String>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    path: String,
    left: u64,
    /// What follows it, up to the end of a block.
    padding: usize,
}

impl ContextReader {
    fn of_directory(root: &Path, dockerfile: &str) -> Result<Self, EngineError> {
        let trouble = |what: &str, error: &dyn std::fmt::Display| {
            EngineError::Context(format!("cannot build from {}: {what}: {error}", root.display()))
        };
        let text = match fs::read_to_string(root.join(IGNORE_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(trouble(IGNORE_FILE, &error)),
        };
        let ignored = Ignored::parse(&text).map_err(|error| trouble(IGNORE_FILE, &error))?;
        if let Err(error) = fs::metadata(root.join(dockerfile)) {
            return Err(trouble(dockerfile, &error));
        }
        let needed = vec![dockerfile.trim_start_matches("./").to_owned(), IGNORE_FILE.to_owned()];
        let mut reader = Self { root: root.to_owned(), ignored, needed, ..Self::default() };
        reader.list("").map_err(|error| trouble("its files", &error))?;
        Ok(reader)
    }

    /// What cannot be read makes an end; `None` when all went well.
    pub(super) fn trouble(&self) -> Option<EngineError> {
        let trouble = self.trouble.as_ref()?;
        Some(EngineError::Context(format!("cannot build from {}: {trouble}", self.root.display())))
    }

    /// Puts what is in a directory before all else that waits.
    fn list(&mut self, directory: &str) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(directory))? {
            let name = entry?.file_name().into_string();
            names.push(name.map_err(|name| io::Error::other(format!("{name:?} is a name that is not UTF-8")))?);
        }
        // The same context is the same archive, so that an engine can use what it has built before.
        names.sort_unstable_by(|one, other| other.cmp(one));
        for name in names {
            self.waiting.push_front(if directory.is_empty() { name } else { format!("{directory}/{name}") });
        }
        Ok(())
    }

    /// Prepares the next entry.
    fn next(&mut self, path: &str) -> io::Result<()> {
        let on_disk = self.root.join(path);
        let metadata = fs::symlink_metadata(&on_disk)?;
        let ignored = self.ignored.covers(path) && !self.needed.iter().any(|needed| needed == path);
        let leads_to_needed = || self.needed.iter().any(|needed| Path::new(needed).starts_with(path));
        if metadata.is_dir() && (!ignored || self.ignored.takes_back() || leads_to_needed()) {
            self.list(path)?;
        }
        if ignored {
            return Ok(());
        }
        let mut builder = Builder::new(Vec::new());
        let mut header = header(&metadata);
        if metadata.is_dir() {
            header.set_entry_type(EntryType::Directory);
            builder.append_data(&mut header, format!("{path}/"), io::empty())?;
        } else if metadata.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            builder.append_link(&mut header, path, fs::read_link(&on_disk)?)?;
        } else if metadata.is_file() {
            let file = File::open(&on_disk)?;
            // Of what was opened.
            let size = file.metadata()?.len();
            header.set_entry_type(EntryType::Regular);
            header.set_size(size);
            // The head alone: what follows it is read from the file as it is sent.
            builder.append_data(&mut header, path, io::empty())?;
            if size > 0 {
                let padding = (size.next_multiple_of(BLOCK as u64) - size) as usize;
                self.file = Some(OpenFile { file, path: path.to_owned(), left: size, padding });
            }
        }
        // Not its end: that comes once, at the end of all.
        self.head = Cursor::new(std::mem::take(builder.get_mut()));
        Ok(())
    }

    /// A piece of what is there; 0 when the next entry is to be prepared.
    fn piece(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.head.read(buffer)?;
        if count > 0 {
            return Ok(count);
        }
        let Some(open) = &mut self.file else { return Ok(0) };
        let wanted = buffer.len().min(usize::try_from(open.left).unwrap_or(usize::MAX));
        let count = open.file.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::Error::other(format!("{} became shorter while it was read", open.path)));
        }
        open.left -= count as u64;
        if open.left == 0 {
            self.head = Cursor::new(vec![0; open.padding]);
            self.file = None;
        }
        Ok(count)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.piece(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            match self.waiting.pop_front() {
                Some(path) => self.next(&path).map_err(|error| io::Error::other(format!("{path}: {error}")))?,
                None if self.finished => return Ok(0),
                None => {
                    self.finished = true;
                    // The end of an archive: two empty blocks.
                    self.head = Cursor::new(vec![0; 2 * BLOCK]);
                }
            }
        }
    }
}

/// Of root; a file that is the same has the same entry.
fn header(metadata: &Metadata) -> Header {
    use std::os::unix::fs::MetadataExt;
    let mut header = Header::new_gnu();
    header.set_mode(metadata.mode() & 0o7777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

impl Read for ContextReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.fill(buffer).inspect_err(|error| self.trouble = Some(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::drivers::docker::engine::tests::Directory;

    type Entries = BTreeMap<String, (EntryType, u32, Vec<u8>)>;

    /// Read a few bytes at a time, as no engine would.
    fn unpacked(mut reader: impl Read, step: usize) -> io::Result<Entries> {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; step];
        loop {
            match reader.read(&mut buffer)? {
                0 => break,
                count => bytes.extend_from_slice(&buffer[..count]),
            }
        }
        assert_eq!(bytes.len() % BLOCK, 0);
        let mut entries = Entries::new();
        for entry in tar::Archive::new(&bytes[..]).entries()? {
            let mut entry = entry?;
            let (path, header) = (entry.path()?.display().to_string(), entry.header().clone());
            assert_eq!((header.uid()?, header.gid()?), (0, 0), "{path}");
            let mut contents = Vec::new();
            match entry.link_name()? {
                Some(target) => contents = target.display().to_string().into_bytes(),
                None => drop(entry.read_to_end(&mut contents)?),
            }
            entries.insert(path, (header.entry_type(), header.mode()?, contents));
        }
        Ok(entries)
    }

    fn names(entries: &Entries) -> Vec<&str> {
        entries.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_context_of_a_dockerfile_alone_is_that_file() {
        let context = BuildContext::Dockerfile("FROM scratch\n");
        let entries = unpacked(context.open().unwrap(), 100).unwrap();
        assert_eq!(entries["Dockerfile"], (EntryType::Regular, 0o644, b"FROM scratch\n".to_vec()));
        assert_eq!(entries.len(), 1);
    }

    #[test]
    fn a_directory_is_sent_as_it_is() {
        let directory = Directory::new();
        let root = directory.path();
        let long = "d".repeat(90);
        let file = format!("{long}/{}", "f".repeat(200));
        fs::create_dir_all(root.join(&long)).unwrap();
        for (name, length) in [("Dockerfile", 10), ("empty", 0), ("block", 512), ("big", 100_000), (file.as_str(), 513)]
        {
            fs::write(root.join(name), vec![b'x'; length]).unwrap();
        }
        fs::set_permissions(root.join("big"), fs::Permissions::from_mode(0o750)).unwrap();
        symlink("../elsewhere", root.join("link")).unwrap();
        let _socket = UnixListener::bind(root.join("socket")).unwrap();

        for step in [1, 511, 64 << 10] {
            let entries = unpacked(BuildContext::Directory(root, None).open().unwrap(), step).unwrap();
            let folder = format!("{long}/");
            assert_eq!(names(&entries), ["Dockerfile", "big", "block", &folder, &file, "empty", "link"]);
            assert_eq!(entries["big"], (EntryType::Regular, 0o750, vec![b'x'; 100_000]));
            assert_eq!(entries[&file].2, vec![b'x'; 513]);
            assert_eq!(entries["empty"].2, b"");
            assert_eq!((entries["link"].0, &entries["link"].2[..]), (EntryType::Symlink, &b"../elsewhere"[..]));
            assert_eq!(entries[&folder].0, EntryType::Directory);
        }
    }

    #[test]
    fn what_is_ignored_stays_here_but_not_what_the_engine_needs() {
        let directory = Directory::new();
        let root = directory.path();
        for path in ["docker/Dockerfile", "target/debug/x", "src/a.rs", "src/secret", "docs/x", "docs/README"] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), path).unwrap();
        }
        fs::write(root.join(".dockerignore"), "target\ndocker\n*/secret\n.dockerignore\n").unwrap();
        let context = BuildContext::Directory(root, Some("docker/Dockerfile"));
        let entries = unpacked(context.open().unwrap(), 4096).unwrap();
        assert_eq!(
            names(&entries),
            [".dockerignore", "docker/Dockerfile", "docs/", "docs/README", "docs/x", "src/", "src/a.rs"]
        );

        fs::write(root.join(".dockerignore"), "*\n!docs/README").unwrap();
        let entries = unpacked(context.open().unwrap(), 4096).unwrap();
        assert_eq!(names(&entries), [".dockerignore", "docker/Dockerfile", "docs/README"]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let directory = Directory::new();
        let root = directory.path();
        let error = |context: BuildContext<'_>| context.open().unwrap_err().to_string();
        assert!(error(BuildContext::Directory(root, None)).contains("Dockerfile"));
        assert!(error(BuildContext::Directory(root, Some("other"))).contains("other"));
        fs::write(root.join("Dockerfile"), "").unwrap();
        fs::write(root.join(".dockerignore"), "[a").unwrap();
        assert!(error(BuildContext::Directory(root, None)).contains(".dockerignore"));
    }

    #[test]
    fn a_file_that_changes_under_us_is_an_end_with_its_name() {
        let directory = Directory::new();
        let root = directory.path();
        fs::write(root.join("Dockerfile"), "").unwrap();
        fs::write(root.join("shrinks"), vec![b'x'; 10_000]).unwrap();
        fs::write(root.join("then"), "").unwrap();
        let mut reader = BuildContext::Directory(root, None).open().unwrap();
        let mut buffer = [0; BLOCK];
        // The Dockerfile's head and that of the file.
        reader.read_exact(&mut buffer).unwrap();
        reader.read_exact(&mut buffer).unwrap();
        fs::write(root.join("shrinks"), "x").unwrap();
        assert!(io::copy(&mut reader, &mut io::sink()).is_err());
        let trouble = reader.trouble().unwrap().to_string();
        assert!(trouble.contains("shrinks") && trouble.contains("shorter"), "{trouble}");
    }
}
