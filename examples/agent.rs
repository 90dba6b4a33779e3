//! An agent: the program that runs on an instance, connects to the master and runs its commands there.
//!
//! It takes nothing but a master to talk to. Built like this it is one static file that runs on any Linux:
//!
//! ```sh
//! RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --example agent --features agent \
//!     --target x86_64-unknown-linux-gnu
//! ```

#[cfg(unix)]
mod unix {
    use std::ffi::OsString;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::process::ExitCode;
    use std::time::Duration;

    use latent_worker::{AgentClient, AgentStopper, LocalAgent, Secret};
    use lexopt::prelude::*;
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::low_level::pipe;

    const HELP: &str = "\
Connects to a master as the agent of a worker, and runs its commands until the master says that it is enough.

Usage: agent [OPTIONS] [DIRECTORY]

Commands run in DIRECTORY (the present one), which is made if it is not there. Who it is and where the master is
comes from the environment, as the drivers of latent-worker set it; the images of buildbot-worker use the names in
brackets:

  LATENT_WORKER_MASTER        where the master listens, host:port    [BUILDMASTER, BUILDMASTER_PORT]
  LATENT_WORKER_NAME          the name of the worker                 [WORKERNAME]
  LATENT_WORKER_SECRET        what it proves itself with             [WORKERPASS]
  LATENT_WORKER_SECRET_FILE   a file with that, instead

Options:
  --master-timeout SECONDS    ends when the master has been gone for so long (600)
  --follow-stdin              ends when standard input does: whoever started it is gone
  --authorities FILE          speaks TLS, and trusts these authorities (feature tls)
  -h, --help                  shows this

Exit status: 0 the master or a signal has ended it, 1 the master is gone, 2 bad usage.
";

    struct Options {
        directory: PathBuf,
        master_timeout: Option<Duration>,
        follow_stdin: bool,
        authorities: Option<PathBuf>,
    }

    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Options>, lexopt::Error> {
        let mut options =
            Options { directory: ".".into(), master_timeout: None, follow_stdin: false, authorities: None };
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("master-timeout") => {
                    let seconds = parser.value()?.parse()?;
                    let timeout = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
                    options.master_timeout = Some(timeout);
                }
                Long("follow-stdin") => options.follow_stdin = true,
                Long("authorities") => options.authorities = Some(parser.value()?.into()),
                Short('h') | Long("help") => return Ok(None),
                Value(directory) => options.directory = directory.into(),
                other => return Err(other.unexpected()),
            }
        }
        Ok(Some(options))
    }

    fn variable(names: &[&str]) -> Result<String, String> {
        let found = names.iter().find_map(|name| std::env::var(name).ok());
        found.ok_or_else(|| format!("{} is not set; --help tells what is needed", names.join(" or ")))
    }

    fn secret() -> Result<Secret, String> {
        if let Ok(path) = std::env::var("LATENT_WORKER_SECRET_FILE") {
            let text = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
            return Ok(Secret::new(text.trim_end()));
        }
        variable(&["LATENT_WORKER_SECRET", "WORKERPASS"]).map(Secret::new)
    }

    fn master() -> Result<String, String> {
        match (std::env::var("BUILDMASTER"), std::env::var("BUILDMASTER_PORT")) {
            (Ok(host), Ok(port)) if std::env::var_os("LATENT_WORKER_MASTER").is_none() => Ok(format!("{host}:{port}")),
            _ => variable(&["LATENT_WORKER_MASTER"]),
        }
    }

    fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
        let made = std::fs::create_dir_all(&options.directory);
        made.map_err(|error| format!("cannot make {}: {error}", options.directory.display()))?;
        let agent = LocalAgent::in_directory(&options.directory);
        // As the first process of a container it inherits what commands leave behind.
        agent.reap_orphans()?;
        let name = variable(&["LATENT_WORKER_NAME", "WORKERNAME"])?;
        let mut builder = AgentClient::builder(master()?, name, secret()?);
        if let Some(timeout) = options.master_timeout {
            builder = builder.master_timeout(timeout);
        }
        if let Some(authorities) = &options.authorities {
            #[cfg(feature = "tls")]
            {
                builder = builder.tls_trusting(authorities)?;
            }
            #[cfg(not(feature = "tls"))]
            return Err(format!("{}: this agent was built without the feature tls", authorities.display()).into());
        }
        let client = builder.build(agent.directory(), agent.clone());

        let (mut signal, writer) = UnixStream::pair()?;
        for number in [SIGTERM, SIGINT] {
            pipe::register(number, writer.try_clone()?)?;
        }
        stop_after("signals", client.stopper(), move || _ = signal.read(&mut [0]))?;
        if options.follow_stdin {
            stop_after("stdin", client.stopper(), || {
                while std::io::stdin().read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
            })?;
        }
        let end = client.run();
        // What runs was told to end; nobody is to be left behind.
        if !agent.close_and_wait(Duration::from_secs(10)) {
            eprintln!("agent: a process of a command still runs after it was killed");
        }
        eprintln!("agent: {}", end?);
        Ok(())
    }

    /// Stops the client when `wait` returns.
    fn stop_after(name: &str, stopper: AgentStopper, wait: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let stop = move || {
            wait();
            stopper.stop();
        };
        std::thread::Builder::new().name(name.into()).spawn(stop).map(drop)
    }

    pub(crate) fn main() -> ExitCode {
        let complain = |message: &dyn std::fmt::Display, status| {
            eprintln!("agent: {message}");
            ExitCode::from(status)
        };
        match parse(std::env::args_os().skip(1)) {
            Ok(None) => {
                print!("{HELP}");
                ExitCode::SUCCESS
            }
            Ok(Some(options)) => match run(&options) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => complain(&error, 1),
            },
            Err(error) => complain(&error, 2),
        }
    }
}

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    unix::main()
}

#[cfg(not(unix))]
fn main() {
    eprintln!("the agent runs commands in the way of Unix");
}
