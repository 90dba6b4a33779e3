//! An agent: the program that runs on an instance, connects to the master and runs its commands there.
//!
//! It takes nothing but a master to talk to. Built like this it is one static file that runs on any Linux:
//!
//! ```sh
//! RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --example agent --features agent \
//!     --target x86_64-unknown-linux-gnu
//! ```

#[cfg(unix)]
#[path = "support/numbers.rs"]
mod numbers;
#[cfg(unix)]
#[path = "support/signals.rs"]
mod signals;

#[cfg(unix)]
mod unix {
    use std::ffi::OsString;
    use std::fmt::Display;
    use std::io::{Read, Write};
    use std::path::PathBuf;
    use std::process::ExitCode;
    use std::time::Duration;

    use latent_worker::{AgentClient, AgentStopper, LocalAgent};
    use lexopt::prelude::*;

    use crate::numbers::{self, LONGEST};
    use crate::signals;

    const HELP: &str = "\
Connects to a master as the agent of a worker, and runs commands until the master ends it.

Usage: agent [OPTIONS] [DIRECTORY]

Commands run in DIRECTORY (the current one), which is created if it does not exist. The name of the worker and the address of
the master come from the environment, as the drivers of latent-worker set it; the images of buildbot-worker use the names in
brackets:

  LATENT_WORKER_MASTER        where the master listens, host:port    [BUILDMASTER, BUILDMASTER_PORT]
  LATENT_WORKER_NAME          the name of the worker                 [WORKERNAME]
  LATENT_WORKER_SECRET        the secret of the worker               [WORKERPASS]
  LATENT_WORKER_SECRET_FILE   a file with the secret, instead; it is removed after it was read

Options:
  --master-timeout SECONDS    ends when the master has been unreachable for so long, up to a year (600)
  --follow-stdin              ends when standard input ends, because the program that started the agent has ended
  --authorities FILE          speaks TLS, and trusts these authorities (feature tls)
  -h, --help                  shows this

SIGINT, SIGTERM and SIGHUP end the agent and its commands; under nohup, SIGHUP does nothing.

Exit status: 0 the master or a signal has ended the agent, 1 the master is unreachable, 2 bad usage.
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
                    let value = parser.value()?.string()?;
                    let range = Duration::from_millis(1)..=LONGEST;
                    options.master_timeout = Some(numbers::seconds("--master-timeout", &value, range)?);
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

    fn master() -> Result<String, String> {
        match (std::env::var("BUILDMASTER"), std::env::var("BUILDMASTER_PORT")) {
            (Ok(host), Ok(port)) if std::env::var_os("LATENT_WORKER_MASTER").is_none() => Ok(format!("{host}:{port}")),
            _ => variable(&["LATENT_WORKER_MASTER"]),
        }
    }

    fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
        // Must come first: this may execute the program again.
        let secret = AgentClient::take_secret()?;
        let interrupts = signals::interrupts()?;
        let made = std::fs::create_dir_all(&options.directory);
        made.map_err(|error| format!("cannot make {}: {error}", options.directory.display()))?;
        let agent = LocalAgent::in_directory(&options.directory);
        // The first process of a container inherits the orphans of commands.
        agent.reap_orphans()?;
        let name = variable(&["LATENT_WORKER_NAME", "WORKERNAME"])?;
        let mut builder = AgentClient::builder(master()?, name, secret);
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

        stop_after("interrupts", client.stopper(), move || _ = interrupts.recv())?;
        if options.follow_stdin {
            stop_after("stdin", client.stopper(), || {
                while std::io::stdin().read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
            })?;
        }
        let end = client.run();
        // What runs was told to end; nobody is to be left behind.
        if !agent.close_and_wait(Duration::from_secs(10)) {
            say(&"a process of a command still runs after it was killed");
        }
        say(&end?);
        Ok(())
    }

    /// Standard error may be closed.
    fn say(message: &dyn Display) {
        let _ = writeln!(std::io::stderr(), "agent: {message}");
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
        let complain = |message: &dyn Display, status| {
            say(message);
            ExitCode::from(status)
        };
        match parse(std::env::args_os().skip(1)) {
            Ok(None) => match std::io::stdout().write_all(HELP.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => complain(&format!("cannot write to standard output: {error}"), 1),
            },
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
