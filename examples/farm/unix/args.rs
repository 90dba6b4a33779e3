//! The command line: what can be asked for, and what is wrong with it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use latent_worker::IdlePolicy;
use lexopt::prelude::*;

use crate::numbers::{self, LONGEST};

pub(crate) const HELP: &str = "\
Runs builds on latent workers: their instances start when there is work and stop when there is none.

Usage: farm [OPTIONS] [FILE]
       (in the checkout: cargo run --release --example farm -- [OPTIONS] [FILE])

FILE has one build per line, in UTF-8; `-` is standard input. Without FILE, farm runs a short built-in list as an example.

    # properties, then a shell command
    kind=text case=big -- wc -l \"$FARM_DIR\"/*.txt
    -- make test

The property `kind` chooses the kind of instance: an instance of one kind takes no build of another one. The property
`image` does the same with the drivers `docker` and `ec2`. Every build runs in the directory of its instance; with the driver
`local` the directory is private and is removed with the instance. FARM_DIR is the directory that farm was started in. The
name of a build is the number of its line.

Options:
  --workers N             how many workers there are, up to 100000
                          (as many as there are processors; 2 for the built-in list)
  --idle WHEN             when an instance without work is stopped: after-build, never, or SECONDS (2)
  --max-attempts N        how often a build is tried when its instance fails, up to 1000 (3)
  --max-builds N          how many builds may use an instance at once, up to 1000 (1)
  --time-limit SECONDS    how long a build may run, up to a year (no limit)
  --driver DRIVER         what an instance is (local):
                          local    a directory on this machine
                          command  what programs of yours start and stop; its agent connects to farm
                          process  a child process of farm, whose agent connects to it
                          docker   a container, whose agent connects to farm
                          ec2      a machine of Amazon EC2, whose agent connects to farm
  --events FILE           writes what happens to FILE, as lines of JSON
  --journal FILE          records in FILE which instances may exist. When farm is killed, the next farm with this FILE,
                          the same driver and as many workers removes what is left of them
  --quiet                 shows only failures and the summary
  -h, --help              shows this text
  -V, --version           shows the version

With --driver local:
  --kind NAME=DIRECTORY   instances of kind NAME start with a copy of DIRECTORY; can be given more than once

With --driver command, where each PROGRAM is a line for /bin/sh, run in the current directory:
  --start PROGRAM         starts an instance: its environment has LATENT_WORKER_NAME, LATENT_WORKER_SECRET and
                          LATENT_WORKER_MASTER for the agent, and LATENT_WORKER_PROPERTY_kind; its first line of output
                          is what the others get as LATENT_WORKER_INSTANCE. The documentation of CommandLatentWorker
                          tells more.
  --stop PROGRAM          stops it
  --check PROGRAM         fails if the agent of an instance, which has not connected yet, will never connect
                          (every instance is good)

With --driver docker, where DOCKER_HOST and its like say which engine, as they do for docker itself:
  --image IMAGE           the image of the containers, unless a build has a property `image`. It starts an agent that
                          finds farm through LATENT_WORKER_MASTER, _NAME and _SECRET. It does not contain FARM_DIR.
  --memory M              how much memory a container may use, 6m to 1024t: 512m, 2g, or bytes (no limit)

With --driver ec2, where AWS_REGION, AWS_PROFILE and their like say whose account it is, as they do for aws itself:
  --image AMI             the image of the machines, unless a build has a property `image`: ami-..., or ssm: and the name
                          of a parameter
  --offer OFFER           the type of machine: TYPE[@ZONE or @SUBNET][:spot]. Can be given more than once, the preferred one
                          first: the next one is requested when one is unavailable.
  --user-data FILE        a script or a cloud-config that starts an agent: see the documentation of Ec2LatentWorker, and
                          examples/ec2/user-data.sh for an example. The machines do not have FARM_DIR.

With --driver command, process, docker or ec2:
  --listen HOST:PORT      the address that agents connect to, as they see it (127.0.0.1:0 for process; 0.0.0.0:0 for
                          docker, where containers get the address that they see). Port 0 is any free port; the line
                          `farm: agents connect to HOST:PORT` on standard error names it.

Ctrl-C lets running builds finish and starts no others. A second Ctrl-C ends them as well. A third one ends farm at once,
and farm lists what it leaves behind. SIGTERM and SIGHUP do the same as Ctrl-C; under nohup, SIGHUP does nothing.
When standard output is a pipe that nobody reads any more, the builds are cancelled.

Exit status, the first that applies:
  2    bad usage, or farm could not start: no build was run
  3    something is left behind; standard error lists it and says how to remove it
  141  standard output was closed before farm ended
  130  interrupted
  1    a build did not succeed, or output, the record of events or the journal could not be written
  0    every build succeeded, or FILE contains no builds
";

pub(crate) enum Request {
    Run(Box<Options>),
    Help,
    Version,
}

#[derive(PartialEq, Debug)]
pub(crate) struct Options {
    pub(crate) source: Source,
    pub(crate) workers: NonZeroUsize,
    pub(crate) idle: IdlePolicy,
    pub(crate) max_attempts: NonZeroU32,
    pub(crate) max_builds: NonZeroUsize,
    pub(crate) time_limit: Option<Duration>,
    pub(crate) driver: Driver,
    pub(crate) events: Option<PathBuf>,
    pub(crate) journal: Option<PathBuf>,
    pub(crate) quiet: bool,
}

/// What an instance is.
#[derive(PartialEq, Debug)]
pub(crate) enum Driver {
    Local {
        /// The template directories of kinds.
        templates: BTreeMap<String, PathBuf>,
    },
    Command(Programs),
    Process {
        /// Where agents connect to.
        listen: String,
    },
    Docker(Containers),
    Ec2(Machines),
}

impl Driver {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Local { .. } => "local",
            Self::Command(_) => "command",
            Self::Process { .. } => "process",
            Self::Docker(_) => "docker",
            Self::Ec2(_) => "ec2",
        }
    }
}

/// Lines for a shell, and where the agents that they start connect to.
#[derive(PartialEq, Debug)]
pub(crate) struct Programs {
    pub(crate) start: String,
    pub(crate) stop: String,
    pub(crate) check: Option<String>,
    pub(crate) listen: String,
}

/// What containers are made of, and where their agents connect to.
#[derive(PartialEq, Debug)]
pub(crate) struct Containers {
    /// Unless a build says something else.
    pub(crate) image: String,
    /// As it was given.
    pub(crate) memory: Option<String>,
    pub(crate) listen: String,
}

/// What machines are made of, and where their agents connect to.
#[derive(PartialEq, Debug)]
pub(crate) struct Machines {
    /// Unless a build says something else.
    pub(crate) image: String,
    /// As they were given, the preferred one first.
    pub(crate) offers: Vec<String>,
    pub(crate) user_data: PathBuf,
    pub(crate) listen: String,
}

/// Where the builds come from.
#[derive(PartialEq, Debug)]
pub(crate) enum Source {
    BuiltIn,
    Stdin,
    File(PathBuf),
}

/// A worker without an instance costs some memory and no thread.
const MOST_WORKERS: u32 = 100_000;
/// Each build that runs costs a thread.
const MOST_BUILDS: u32 = 1000;
const MOST_ATTEMPTS: u32 = 1000;
const SHORTEST_LIMIT: Duration = Duration::from_millis(1);

const BUILT_IN_WORKERS: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// Any free port, for agents of this machine alone.
const LOOPBACK: &str = "127.0.0.1:0";
/// Any free port, for agents wherever they are.
const EVERYWHERE: &str = "0.0.0.0:0";

pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, lexopt::Error> {
    let mut source = Source::BuiltIn;
    let mut workers = None;
    let mut options = Options {
        source: Source::BuiltIn,
        workers: BUILT_IN_WORKERS,
        idle: IdlePolicy::After(Duration::from_secs(2)),
        max_attempts: NonZeroU32::new(3).unwrap(),
        max_builds: NonZeroUsize::MIN,
        time_limit: None,
        driver: Driver::Local { templates: BTreeMap::new() },
        events: None,
        journal: None,
        quiet: false,
    };
    let mut given = Given { driver: "local".to_owned(), ..Given::default() };
    let mut parser = lexopt::Parser::from_iter(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("workers") => workers = Some(count(&mut parser, "--workers", MOST_WORKERS)?),
            Long("idle") => options.idle = idle(&text(&mut parser)?)?,
            Long("max-attempts") => options.max_attempts = whole(&mut parser, "--max-attempts", MOST_ATTEMPTS)?,
            Long("max-builds") => options.max_builds = count(&mut parser, "--max-builds", MOST_BUILDS)?,
            Long("time-limit") => options.time_limit = Some(time_limit(&text(&mut parser)?)?),
            Long("kind") => {
                let (name, template) = kind(&text(&mut parser)?)?;
                if given.templates.insert(name.clone(), template).is_some() {
                    return Err(format!("--kind {name} is given twice").into());
                }
            }
            Long("driver") => given.driver = text(&mut parser)?,
            Long("start") => given.start = Some(text(&mut parser)?),
            Long("stop") => given.stop = Some(text(&mut parser)?),
            Long("check") => given.check = Some(text(&mut parser)?),
            Long("listen") => given.listen = Some(listen(&text(&mut parser)?)?),
            Long("image") => given.image = Some(image(text(&mut parser)?)?),
            Long("offer") => given.offers.push(text(&mut parser)?),
            Long("user-data") => given.user_data = Some(parser.value()?.into()),
            Long("memory") => given.memory = Some(text(&mut parser)?),
            Long("events") => options.events = Some(parser.value()?.into()),
            Long("journal") => options.journal = Some(parser.value()?.into()),
            Long("quiet") => options.quiet = true,
            Short('h') | Long("help") => return Ok(Request::Help),
            Short('V') | Long("version") => return Ok(Request::Version),
            Value(_) if source != Source::BuiltIn => return Err("there can be only one FILE".into()),
            Value(file) if file == "-" => source = Source::Stdin,
            Value(file) => source = Source::File(file.into()),
            other => return Err(other.unexpected()),
        }
    }
    let usual = || match source {
        Source::BuiltIn => BUILT_IN_WORKERS,
        Source::Stdin | Source::File(_) => std::thread::available_parallelism().unwrap_or(BUILT_IN_WORKERS),
    };
    options.workers = workers.unwrap_or_else(usual);
    options.source = source;
    options.driver = given.driver()?;
    Ok(Request::Run(options.into()))
}

/// The driver and what belongs to one driver alone, as it stands on the command line.
#[derive(Default)]
struct Given {
    driver: String,
    templates: BTreeMap<String, PathBuf>,
    start: Option<String>,
    stop: Option<String>,
    check: Option<String>,
    listen: Option<String>,
    image: Option<String>,
    memory: Option<String>,
    offers: Vec<String>,
    user_data: Option<PathBuf>,
}

impl Given {
    fn driver(self) -> Result<Driver, lexopt::Error> {
        let name = &*self.driver;
        if !["local", "command", "process", "docker", "ec2"].contains(&name) {
            return Err(format!("invalid --driver {name:?}: use local, command, process, docker or ec2").into());
        }
        for (option, is_given, owners) in [
            ("--kind", !self.templates.is_empty(), ["local"].as_slice()),
            ("--start", self.start.is_some(), &["command"]),
            ("--stop", self.stop.is_some(), &["command"]),
            ("--check", self.check.is_some(), &["command"]),
            ("--listen", self.listen.is_some(), &["command", "process", "docker", "ec2"]),
            ("--image", self.image.is_some(), &["docker", "ec2"]),
            ("--memory", self.memory.is_some(), &["docker"]),
            ("--offer", !self.offers.is_empty(), &["ec2"]),
            ("--user-data", self.user_data.is_some(), &["ec2"]),
        ] {
            if is_given && !owners.contains(&name) {
                return Err(format!("{option} goes with --driver {}, not with {name}", owners.join(" or ")).into());
            }
        }
        let missing = |option: &str| format!("--driver {name} needs {option}");
        let wanted = |value: Option<String>, option| value.ok_or_else(|| missing(option));
        Ok(match name {
            "command" => Driver::Command(Programs {
                start: wanted(self.start, "--start")?,
                stop: wanted(self.stop, "--stop")?,
                check: self.check,
                listen: wanted(self.listen, "--listen")?,
            }),
            "process" => Driver::Process { listen: self.listen.unwrap_or_else(|| LOOPBACK.to_owned()) },
            "docker" => Driver::Docker(Containers {
                image: wanted(self.image, "--image")?,
                memory: self.memory,
                listen: self.listen.unwrap_or_else(|| EVERYWHERE.to_owned()),
            }),
            "ec2" => Driver::Ec2(Machines {
                image: wanted(self.image, "--image")?,
                offers: if self.offers.is_empty() { return Err(missing("--offer").into()) } else { self.offers },
                user_data: self.user_data.ok_or_else(|| missing("--user-data"))?,
                listen: wanted(self.listen, "--listen")?,
            }),
            _ => Driver::Local { templates: self.templates },
        })
    }
}

fn listen(value: &str) -> Result<String, lexopt::Error> {
    numbers::host_and_port("--listen", value, 0..=u16::MAX.into())?;
    Ok(value.to_owned())
}

fn image(value: String) -> Result<String, lexopt::Error> {
    if value.is_empty() { Err("invalid --image \"\": use the name of an image".into()) } else { Ok(value) }
}

fn text(parser: &mut lexopt::Parser) -> Result<String, lexopt::Error> {
    parser.value()?.string()
}

fn whole(parser: &mut lexopt::Parser, option: &str, most: u32) -> Result<NonZeroU32, lexopt::Error> {
    let number = numbers::whole(option, &text(parser)?, 1..=most)?;
    Ok(NonZeroU32::new(number).expect("the range begins at 1"))
}

fn count(parser: &mut lexopt::Parser, option: &str, most: u32) -> Result<NonZeroUsize, lexopt::Error> {
    whole(parser, option, most)?.try_into().map_err(|error| format!("{option}: {error}").into())
}

fn idle(value: &str) -> Result<IdlePolicy, lexopt::Error> {
    match value {
        "after-build" => Ok(IdlePolicy::AfterBuild),
        "never" => Ok(IdlePolicy::Never),
        _ => match numbers::seconds("--idle", value, Duration::ZERO..=LONGEST) {
            Ok(time) => Ok(IdlePolicy::After(time)),
            Err(error) => Err(format!("{error}, after-build or never").into()),
        },
    }
}

fn time_limit(value: &str) -> Result<Duration, lexopt::Error> {
    Ok(numbers::seconds("--time-limit", value, SHORTEST_LIMIT..=LONGEST)?)
}

fn kind(value: &str) -> Result<(String, PathBuf), lexopt::Error> {
    match value.split_once('=') {
        Some((name, template)) if !name.is_empty() && !template.is_empty() => {
            let template = PathBuf::from(template);
            if !template.is_dir() {
                return Err(format!("--kind {name}: {} is not a directory", template.display()).into());
            }
            Ok((name.to_owned(), template))
        }
        _ => Err(format!("invalid --kind {value:?}: use NAME=DIRECTORY").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Options {
        match parse(["farm"].iter().chain(arguments).map(OsString::from)) {
            Ok(Request::Run(options)) => *options,
            Ok(_) => panic!("{arguments:?} asks for something else"),
            Err(error) => panic!("{arguments:?}: {error}"),
        }
    }

    fn error(arguments: &[&str]) -> String {
        match parse(["farm"].iter().chain(arguments).map(OsString::from)) {
            Ok(_) => panic!("{arguments:?} is taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn without_arguments_the_built_in_list_runs_with_the_defaults() {
        let options = options(&[]);
        assert_eq!(options.source, Source::BuiltIn);
        assert_eq!(options.workers.get(), 2);
        assert_eq!(options.idle, IdlePolicy::After(Duration::from_secs(2)));
        assert_eq!((options.max_attempts.get(), options.max_builds.get()), (3, 1));
        assert_eq!((options.time_limit, options.events, options.quiet), (None, None, false));
    }

    #[test]
    fn a_file_gets_a_worker_a_processor() {
        let options = options(&["jobs"]);
        assert_eq!(options.source, Source::File("jobs".into()));
        assert_eq!(options.workers, std::thread::available_parallelism().unwrap());
    }

    #[test]
    fn every_option_is_taken() {
        let options = options(&[
            "--workers=7",
            "--idle",
            "0.5",
            "--max-attempts=9",
            "--max-builds=4",
            "--time-limit=1.5",
            "--kind=a=/",
            "--kind",
            "b=/.",
            "--events=record",
            "--journal=journal",
            "--quiet",
            "-",
        ]);
        assert_eq!(options.source, Source::Stdin);
        assert_eq!(options.workers.get(), 7);
        assert_eq!(options.idle, IdlePolicy::After(Duration::from_millis(500)));
        assert_eq!((options.max_attempts.get(), options.max_builds.get()), (9, 4));
        assert_eq!(options.time_limit, Some(Duration::from_millis(1500)));
        let Driver::Local { templates } = options.driver else { panic!("{:?}", options.driver) };
        assert_eq!(templates.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((options.events, options.journal), (Some("record".into()), Some("journal".into())));
        assert!(options.quiet);
    }

    #[test]
    fn the_command_driver_has_programs_and_a_place_to_connect_to() {
        let some = ["--driver=command", "--start=a b", "--stop", "c", "--listen=[::1]:0"];
        let mut expected =
            Programs { start: "a b".to_owned(), stop: "c".to_owned(), check: None, listen: "[::1]:0".to_owned() };
        assert_eq!(options(&some).driver, Driver::Command(expected));
        expected = Programs {
            start: String::new(),
            stop: "c".to_owned(),
            check: Some("d".to_owned()),
            listen: "host:1".to_owned(),
        };
        let all = ["--check=d", "--listen=host:1", "--stop=c", "--start=", "--driver=command"];
        assert_eq!(options(&all).driver, Driver::Command(expected));
    }

    #[test]
    fn the_process_driver_listens_on_loopback_if_nothing_else_is_said() {
        assert_eq!(options(&["--driver=process"]).driver, Driver::Process { listen: "127.0.0.1:0".to_owned() });
        let named = options(&["--listen=host:1", "--driver=process"]).driver;
        assert_eq!(named, Driver::Process { listen: "host:1".to_owned() });
    }

    #[test]
    fn the_docker_driver_has_an_image_and_may_have_a_limit_of_memory() {
        let mut expected = Containers { image: "rust:1".to_owned(), memory: None, listen: "0.0.0.0:0".to_owned() };
        assert_eq!(options(&["--driver=docker", "--image=rust:1"]).driver, Driver::Docker(expected));
        expected = Containers { image: "i".to_owned(), memory: Some("2g".to_owned()), listen: "host:1".to_owned() };
        let all = ["--memory=2g", "--listen=host:1", "--image=i", "--driver=docker"];
        assert_eq!(options(&all).driver, Driver::Docker(expected));
    }

    #[test]
    fn the_ec2_driver_has_an_image_offers_and_user_data() {
        let all = ["--driver=ec2", "--image=ami-1", "--offer=a:spot", "--offer=b", "--user-data=u", "--listen=host:1"];
        let expected = Machines {
            image: "ami-1".to_owned(),
            offers: vec!["a:spot".to_owned(), "b".to_owned()],
            user_data: "u".into(),
            listen: "host:1".to_owned(),
        };
        assert_eq!(options(&all).driver, Driver::Ec2(expected));
        for missing in ["--image", "--user-data", "--listen"] {
            let given: Vec<&str> = all.into_iter().filter(|given| !given.starts_with(missing)).collect();
            assert_eq!(error(&given), format!("--driver ec2 needs {missing}"));
        }
        let given: Vec<&str> = all.into_iter().filter(|given| !given.starts_with("--offer")).collect();
        assert_eq!(error(&given), "--driver ec2 needs --offer");
        assert!(error(&["--offer=a"]).contains("--offer goes with --driver ec2"));
    }

    #[test]
    fn what_a_driver_wants_and_does_not_know_is_told() {
        let command = ["--driver=command", "--start=a", "--stop=b", "--listen=host:1"];
        for missing in 1..command.len() {
            let mut given = command.to_vec();
            let option = given.remove(missing).split('=').next().unwrap();
            assert_eq!(error(&given), format!("--driver command needs {option}"));
        }
        assert_eq!(error(&["--start=a"]), "--start goes with --driver command, not with local");
        assert!(error(&["--stop=a", "--driver=local"]).contains("--stop"));
        assert!(error(&["--check=a"]).contains("--check"));
        assert!(
            error(&["--listen=host:1"])
                .starts_with("--listen goes with --driver command or process or docker or ec2, not")
        );
        assert_eq!(error(&["--driver=docker"]), "--driver docker needs --image");
        assert_eq!(error(&["--image=i"]), "--image goes with --driver docker or ec2, not with local");
        assert!(error(&["--memory=1g", "--driver=process"]).contains("--memory"));
        assert!(error(&["--driver=docker", "--image=i", "--kind=a=/"]).contains("--kind"));
        assert!(error(&["--driver=process", "--start=a"]).contains("--start"));
        let mut given = command.to_vec();
        given.push("--kind=a=/");
        assert_eq!(error(&given), "--kind goes with --driver local, not with command");
    }

    #[test]
    fn idle_has_two_words() {
        assert_eq!(options(&["--idle=never"]).idle, IdlePolicy::Never);
        assert_eq!(options(&["--idle=after-build"]).idle, IdlePolicy::AfterBuild);
    }

    #[test]
    fn bad_values_are_told_with_the_option() {
        for (argument, option) in [
            ("--workers=0", "--workers"),
            ("--workers=-1", "--workers"),
            ("--workers=+1", "--workers"),
            ("--workers=100001", "--workers"),
            ("--workers=5000000000", "--workers"),
            ("--workers=99999999999999999999999", "--workers"),
            ("--max-attempts=4294967295", "--max-attempts"),
            ("--max-builds=18446744073709551615", "--max-builds"),
            ("--max-attempts=some", "--max-attempts"),
            ("--max-builds=", "--max-builds"),
            ("--idle=sometimes", "--idle"),
            ("--idle=-1", "--idle"),
            ("--idle=NaN", "--idle"),
            ("--idle=1e300", "--idle"),
            ("--idle=31536001", "--idle"),
            ("--time-limit=1e18", "--time-limit"),
            ("--time-limit=inf", "--time-limit"),
            ("--time-limit=0", "--time-limit"),
            ("--time-limit=soon", "--time-limit"),
            ("--kind=text", "--kind"),
            ("--kind==/", "--kind"),
            ("--kind=text=/no/such/directory", "--kind"),
            ("--driver=cloud", "--driver"),
            ("--image=", "--image"),
            ("--listen=9989", "--listen"),
            ("--listen=:9989", "--listen"),
            ("--listen=host:port", "--listen"),
            ("--listen=host:65536", "--listen"),
            ("--listen=::1", "--listen"),
            ("--unknown", "--unknown"),
        ] {
            let error = error(&[argument]);
            assert!(error.contains(option), "{argument}: {error}");
        }
        assert!(error(&["one", "two"]).contains("only one FILE"));
        assert!(error(&["--kind=a=/", "--kind=a=/"]).contains("twice"));
    }
}
