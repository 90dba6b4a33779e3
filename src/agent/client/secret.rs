//! Takes the secret that a driver has passed to this process, so that no command finds it.
//!
//! A command may read the environment that the agent was started with (`/proc/PID/environ`), whatever the agent changes
//! later. Only another `exec` replaces this environment.

use std::env;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use crate::Secret;

/// The variables in which a driver may put the secret; the first one that is set is used.
const VARIABLES: &[&str] = &["LATENT_WORKER_SECRET", "WORKERPASS"];
/// The path of a file with the secret.
const FILE: &str = "LATENT_WORKER_SECRET_FILE";
/// The longest secret, in bytes. A pipe accepts that much without a reader.
const LONGEST: usize = 4096;

pub(super) fn take() -> io::Result<Secret> {
    let told = VARIABLES.iter().find_map(|name| env::var(name).ok());
    let file = env::var_os(FILE);
    let text = match &file {
        Some(path) => read(Path::new(path))?,
        None => told.clone().ok_or_else(|| {
            io::Error::new(ErrorKind::NotFound, format!("{} or {FILE} must be set", VARIABLES.join(", ")))
        })?,
    };
    let text = text.trim_end();
    if text.is_empty() || text.len() > LONGEST {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            format!("invalid secret of {} bytes: use 1 to {LONGEST} bytes", text.len()),
        ));
    }
    #[cfg(unix)]
    if VARIABLES.iter().any(|name| env::var_os(name).is_some()) {
        return Err(unix::begin_again(text));
    }
    Ok(Secret::new(text))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    #[cfg(unix)]
    if path == Path::new(unix::PIPE) {
        unix::take_pipe()?.read_to_string(&mut text)?;
        return Ok(text);
    }
    let explained = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot read the secret from {}: {error}", path.display()))
    };
    let file = File::open(path).map_err(explained)?;
    let is_file = file.metadata().map_err(explained)?.is_file();
    file.take(LONGEST as u64 + 2).read_to_string(&mut text).map_err(explained)?;
    // A symbolic link, a pipe or a device must not be removed: it may have other users.
    if is_file
        && !path.is_symlink()
        && let Err(error) = std::fs::remove_file(path)
    {
        log::warn!("cannot remove {}: commands may read the secret in it: {error}", path.display());
    }
    Ok(text)
}

#[cfg(unix)]
mod unix {
    use std::env;
    use std::fs::File;
    use std::io::{self, Write};
    use std::os::fd::AsFd;
    use std::os::unix::process::CommandExt;
    use std::path::PathBuf;
    use std::process::Command;

    use super::{FILE, VARIABLES};

    /// The value of `LATENT_WORKER_SECRET_FILE` when the secret is in a pipe that has replaced standard output.
    pub(super) const PIPE: &str = "/dev/stdout";

    /// Executes this program again, without the secret in its environment. Returns only if that fails, with the error.
    ///
    /// The secret is passed in a pipe that replaces standard output: of the descriptors that a new program inherits, an
    /// agent needs this one least, and other descriptors cannot be closed without unsafe code.
    pub(super) fn begin_again(secret: &str) -> io::Error {
        let execute = || -> io::Result<io::Error> {
            let (reader, mut writer) = io::pipe()?;
            writer.write_all(secret.as_bytes())?;
            drop(writer);
            let mut arguments = env::args_os();
            let name = arguments.next().unwrap_or_default();
            let mut program = Command::new(program().unwrap_or_else(|| name.clone().into()));
            program.arg0(name).args(arguments).env(FILE, PIPE).stdout(reader);
            VARIABLES.iter().for_each(|name| _ = program.env_remove(name));
            Ok(program.exec())
        };
        let error = execute().unwrap_or_else(|error| error);
        io::Error::new(error.kind(), format!("cannot execute this program again to clear its environment: {error}"))
    }

    /// Returns the path of this program, also if its file was replaced. `None` if the system does not tell, for example
    /// without `/proc`.
    fn program() -> Option<PathBuf> {
        let path = env::current_exe().ok()?;
        Some(if path.exists() { path } else { "/proc/self/exe".into() })
    }

    /// The pipe of [`begin_again`]. Standard output becomes a copy of standard error.
    pub(super) fn take_pipe() -> io::Result<File> {
        let pipe = io::stdout().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdout(io::stderr())?;
        Ok(pipe.into())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_removed_and_a_link_is_not() {
        let directory = env::temp_dir().join(format!("lw-secret-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (file, link) = (directory.join("file"), directory.join("link"));
        fs::write(&file, "secret\n").unwrap();
        symlink(&file, &link).unwrap();
        assert_eq!(read(&link).unwrap(), "secret\n");
        assert!(file.exists() && link.is_symlink());
        assert_eq!(read(&file).unwrap(), "secret\n");
        assert!(!file.exists());
        let missing = read(&file).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(missing.to_string().contains("cannot read the secret from "), "{missing}");
        fs::remove_dir_all(directory).unwrap();
    }
}
