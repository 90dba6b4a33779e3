//! Where an engine listens, and what the environment says about that.
//!
//! Parsing does no I/O. Files with certificates are read once, when TLS is asked for.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

#[cfg(feature = "tls")]
use super::tls::TlsClient;
use crate::drivers::given::{check_text, without_password};

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
const DEFAULT_HOST: &str = "localhost";
const DEFAULT_PORT: u16 = 2375;
const DEFAULT_TLS_PORT: u16 = 2376;

/// Where a Docker engine listens: a Unix socket, a TCP address, or one with TLS and certificates for both sides.
///
/// ```
/// use latent_worker::EngineAddress;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let podman = EngineAddress::unix("/run/podman/podman.sock");
/// let elsewhere: EngineAddress = "tcp://10.0.0.7:2375".parse()?;
/// assert_eq!(elsewhere.to_string(), "tcp://10.0.0.7:2375");
/// # Ok(()) }
/// ```
///
/// The text is what `DOCKER_HOST` has: `unix:///path`, `unix://@name` (an abstract socket of Linux), `tcp://host:port`.
/// What is left out is as for the docker command: the socket `/var/run/docker.sock`, the host `localhost`, the port 2375.
/// `ssh://` and `npipe://` are not supported, and docker's contexts are not read.
#[derive(Clone)]
pub struct EngineAddress {
    pub(super) place: Place,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<TlsClient>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// One that begins with `@` is a name in Linux's abstract space.
    Unix(PathBuf),
    /// The host is a name or an IP address, the latter without brackets.
    Tcp { host: String, port: u16 },
}

impl EngineAddress {
    /// Where `docker` on the command line would go by its environment.
    ///
    /// | variable | |
    /// |---|---|
    /// | `DOCKER_HOST` | the address; not set or empty: `unix:///var/run/docker.sock`, with TLS `tcp://localhost:2376` |
    /// | `DOCKER_TLS_VERIFY` | not empty: a TCP address is spoken to over TLS (needs the feature `tls`) |
    /// | `DOCKER_CERT_PATH` | the directory with `ca.pem`, `cert.pem` and `key.pem`; not set or empty: `.docker` in the home directory |
    ///
    /// Blocks for the moment that reading the certificates takes.
    ///
    /// # Errors
    ///
    /// The address makes no sense or is not supported, or TLS is asked for and the certificates are not there or this
    /// library was built without it.
    pub fn from_environment() -> Result<Self, EngineAddressError> {
        Wanted::from_variables(|name| env::var_os(name))?.open()
    }

    /// A Unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::at(Place::Unix(path.into()))
    }

    /// Whether the engine is on the machine of this program, as far as its address tells.
    pub(crate) fn is_of_this_machine(&self) -> bool {
        match &self.place {
            Place::Unix(_) => true,
            Place::Tcp { host, .. } => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// This TCP address, over TLS. The engine must show a certificate of the authority in `ca.pem` for the host's name;
    /// it is shown the one in `cert.pem`, whose key is in `key.pem`. The files are read now.
    ///
    /// # Errors
    ///
    /// This is a Unix socket; a file cannot be read; or the certificate and the key do not belong together.
    #[cfg(feature = "tls")]
    pub fn with_tls(mut self, directory: impl AsRef<Path>) -> Result<Self, EngineAddressError> {
        let Place::Tcp { host, .. } = &self.place else {
            return Err(EngineAddressError(format!("{self}: TLS is for TCP addresses, not for Unix sockets")));
        };
        self.tls = Some(TlsClient::from_directory(host, directory.as_ref()).map_err(EngineAddressError)?);
        Ok(self)
    }
}

/// What the environment asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    place: Place,
    certificates: Option<PathBuf>,
}

impl Wanted {
    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, EngineAddressError> {
        // An empty variable counts as not set. Errors do not repeat the value.
        let variable = |name: &str| -> Result<Option<String>, EngineAddressError> {
            let invalid = |problem| EngineAddressError(format!("the environment variable {name} {problem}"));
            let Some(value) = variable(name).filter(|value| !value.is_empty()) else { return Ok(None) };
            let value = value.into_string().map_err(|_| invalid("is not UTF-8"))?;
            check_text(&value).map_err(invalid)?;
            Ok(Some(value))
        };
        let tls = variable("DOCKER_TLS_VERIFY")?.is_some();
        let host = variable("DOCKER_HOST")?.unwrap_or_default();
        let place = match host.as_str() {
            "" if tls => Place::Tcp { host: DEFAULT_HOST.into(), port: DEFAULT_TLS_PORT },
            text => parse(text)?,
        };
        // TLS is for TCP; a Unix socket needs none.
        let certificates = if tls && matches!(place, Place::Tcp { .. }) {
            let missing =
                "DOCKER_TLS_VERIFY is set, and neither DOCKER_CERT_PATH nor HOME says where the certificates are";
            match (variable("DOCKER_CERT_PATH")?, variable("HOME")?) {
                (Some(directory), _) => Some(directory.into()),
                (None, Some(home)) => Some(Path::new(&home).join(".docker")),
                (None, None) => return Err(EngineAddressError(missing.into())),
            }
        } else {
            None
        };
        Ok(Self { place, certificates })
    }

    fn open(self) -> Result<EngineAddress, EngineAddressError> {
        let address = EngineAddress::at(self.place);
        match self.certificates {
            None => Ok(address),
            #[cfg(feature = "tls")]
            Some(directory) => address.with_tls(directory),
            #[cfg(not(feature = "tls"))]
            Some(_) => Err(EngineAddressError(format!(
                "DOCKER_TLS_VERIFY asks for TLS with {address}, and latent-worker was built without its feature `tls`"
            ))),
        }
    }
}

/// As the docker command reads `DOCKER_HOST` (docker/cli, `opts/hosts.go`), without what is not supported.
fn parse(text: &str) -> Result<Place, EngineAddressError> {
    let (scheme, rest) = match text.split_once("://") {
        Some(parts) => parts,
        None if text.is_empty() => ("unix", ""),
        None if text.contains('/') => {
            return Err(wrong(text, "no address; for a Unix socket write unix:// before its path"));
        }
        None => ("tcp", text),
    };
    match scheme {
        "unix" if rest.is_empty() => Ok(Place::Unix(DEFAULT_SOCKET.into())),
        "unix" if rest.contains('\0') => Err(wrong(text, "a path with a NUL character")),
        "unix" => Ok(Place::Unix(rest.into())),
        "tcp" => parse_tcp(rest).map_err(|problem| wrong(text, problem)),
        "ssh" => Err(wrong(text, "SSH is not supported; forward the socket (ssh -L) and give the forwarded one")),
        "npipe" => Err(wrong(text, "named pipes are not supported")),
        "http" | "https" => Err(wrong(text, "write tcp:// before host and port")),
        _ => Err(wrong(text, "neither unix:// nor tcp://")),
    }
}

fn parse_tcp(text: &str) -> Result<Place, &'static str> {
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.contains(|character: char| "/?#@%\\".contains(character) || character <= ' ') {
        return Err("only a host and a port can be given");
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("the bracket is not closed")?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| "no IPv6 address in the brackets")?;
            (host, port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            if port[port.len().min(1)..].contains(':') {
                return Err("an IPv6 address needs brackets");
            }
            (if host.is_empty() { DEFAULT_HOST } else { host }, port)
        }
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => DEFAULT_PORT,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port != 0).ok_or("no such port")?
        }
        _ => return Err("no such port"),
    };
    Ok(Place::Tcp { host: host.into(), port })
}

fn wrong(text: &str, problem: &str) -> EngineAddressError {
    EngineAddressError(format!("the address {:?} of a Docker engine: {problem}", without_password(text)))
}

impl FromStr for EngineAddress {
    type Err = EngineAddressError;

    fn from_str(text: &str) -> Result<Self, EngineAddressError> {
        parse(text.trim()).map(Self::at)
    }
}

/// As `DOCKER_HOST` has it.
impl fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Unix(path) => write!(f, "unix://{}", path.display()),
            Place::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Place::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

impl fmt::Debug for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EngineAddress({self})")
    }
}

/// What is wrong with the address of an engine.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct EngineAddressError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_on_this_machine_or_may_be_on_another() {
        for here in ["unix:///run/docker.sock", "tcp://localhost:2375", "tcp://127.0.0.1:2375", "tcp://[::1]:2375"] {
            assert!(here.parse::<EngineAddress>().unwrap().is_of_this_machine(), "{here}");
        }
        for elsewhere in ["tcp://10.0.0.7:2375", "tcp://engine.example.org:2375"] {
            assert!(!elsewhere.parse::<EngineAddress>().unwrap().is_of_this_machine(), "{elsewhere}");
        }
    }

    fn tcp(host: &str, port: u16) -> Place {
        Place::Tcp { host: host.into(), port }
    }

    /// What the docker command (28.2) made of the same texts.
    #[test]
    fn addresses_are_read_as_the_docker_command_reads_them() {
        for (text, place) in [
            ("", Place::Unix(DEFAULT_SOCKET.into())),
            (" ", Place::Unix(DEFAULT_SOCKET.into())),
            ("unix://", Place::Unix(DEFAULT_SOCKET.into())),
            ("unix:///run/podman/podman.sock", Place::Unix("/run/podman/podman.sock".into())),
            ("unix://rel/x.sock", Place::Unix("rel/x.sock".into())),
            ("unix://@abc", Place::Unix("@abc".into())),
            ("tcp://127.0.0.1", tcp("127.0.0.1", 2375)),
            ("tcp://build-host:77", tcp("build-host", 77)),
            ("tcp://build-host:77/", tcp("build-host", 77)),
            ("127.0.0.1:5", tcp("127.0.0.1", 5)),
            ("127.0.0.1", tcp("127.0.0.1", 2375)),
            ("tcp://:2999", tcp("localhost", 2999)),
            ("tcp://", tcp("localhost", 2375)),
            ("tcp://[::1]:77", tcp("::1", 77)),
            ("tcp://[::1]", tcp("::1", 2375)),
        ] {
            assert_eq!(parse(text.trim()).unwrap(), place, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_an_address_is_named_with_the_reason() {
        for (text, part) in [
            ("ssh://user@host", "ssh -L"),
            ("npipe:////./pipe/docker_engine", "named pipes"),
            ("http://127.0.0.1:77", "tcp://"),
            ("fd://3", "neither unix:// nor tcp://"),
            ("TCP://127.0.0.1", "neither unix:// nor tcp://"),
            ("/tmp/x.sock", "unix://"),
            ("tcp://::1:5", "brackets"),
            ("tcp://[::1", "bracket"),
            ("tcp://[x]:5", "IPv6"),
            ("tcp://[::1]5", "port"),
            ("tcp://h:99999", "port"),
            ("tcp://h:0", "port"),
            ("tcp://h:", "port"),
            ("tcp://h:+5", "port"),
            ("tcp://h:5/prefix", "only a host and a port"),
            ("tcp://user@h:5", "only a host and a port"),
            ("tcp://h:5?x", "only a host and a port"),
        ] {
            let error = text.parse::<EngineAddress>().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(&without_password(text)), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_are_shown_as_they_are_written() {
        for text in ["unix:///run/x.sock", "unix://@abc", "tcp://h:5", "tcp://[::1]:77"] {
            let address: EngineAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(format!("{address:?}"), format!("EngineAddress({text})"));
        }
    }

    fn wanted(variables: &[(&str, &str)]) -> Result<Wanted, EngineAddressError> {
        Wanted::from_variables(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_environment_means_what_it_means_to_the_docker_command() {
        let plain = |place| Wanted { place, certificates: None };
        let socket = || Place::Unix(DEFAULT_SOCKET.into());
        assert_eq!(wanted(&[]).unwrap(), plain(socket()));
        assert_eq!(wanted(&[("DOCKER_HOST", ""), ("DOCKER_TLS_VERIFY", "")]).unwrap(), plain(socket()));
        assert_eq!(wanted(&[("DOCKER_HOST", "tcp://h")]).unwrap(), plain(tcp("h", 2375)));
        // Certificates alone ask for nothing.
        assert_eq!(wanted(&[("DOCKER_HOST", "tcp://h:1"), ("DOCKER_CERT_PATH", "/c")]).unwrap(), plain(tcp("h", 1)));

        let encrypted = |place, directory: &str| Wanted { place, certificates: Some(directory.into()) };
        let tls = ("DOCKER_TLS_VERIFY", "1");
        let certificates = ("DOCKER_CERT_PATH", "/c");
        assert_eq!(wanted(&[tls, certificates]).unwrap(), encrypted(tcp("localhost", 2376), "/c"));
        // Whatever it is set to.
        let zero = ("DOCKER_TLS_VERIFY", "0");
        assert_eq!(wanted(&[zero, certificates]).unwrap(), encrypted(tcp("localhost", 2376), "/c"));
        let host = ("DOCKER_HOST", "tcp://h:9");
        assert_eq!(wanted(&[host, tls, ("HOME", "/home/me")]).unwrap(), encrypted(tcp("h", 9), "/home/me/.docker"));
        assert_eq!(wanted(&[("DOCKER_HOST", "unix:///x"), tls]).unwrap(), plain(Place::Unix("/x".into())));
        assert!(wanted(&[host, tls]).unwrap_err().to_string().contains("DOCKER_CERT_PATH"));
    }

    #[test]
    fn a1_what_is_wrong_with_a_variable_is_told_by_its_name_alone() {
        for name in ["DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"] {
            for value in ["tcp://hush\n", " tcp://hush", "tcp://hush\t", "tcp://h\0ush"] {
                let mut variables = vec![("DOCKER_HOST", "tcp://h:9"), ("DOCKER_TLS_VERIFY", "1"), ("HOME", "/h")];
                variables.insert(0, (name, value));
                let error = wanted(&variables).unwrap_err().to_string();
                assert!(error.starts_with(&format!("the environment variable {name} ")), "{error}");
                crate::secrecy::assert_reveals_nothing(&error, b"tcp://hush");
            }
        }
        let error = "tcp://robot:hunter2@h:1".parse::<EngineAddress>().unwrap_err();
        crate::secrecy::assert_reveals_nothing(&crate::secrecy::shown(&error), b"robot:hunter2");
    }

    #[test]
    fn certificates_that_are_not_there_are_named() {
        let wanted = wanted(&[("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", "/nowhere/at/all")]).unwrap();
        let error = wanted.open().unwrap_err().to_string();
        let expected = if cfg!(feature = "tls") { "/nowhere/at/all/ca.pem" } else { "feature `tls`" };
        assert!(error.contains(expected), "{error}");
    }
}
