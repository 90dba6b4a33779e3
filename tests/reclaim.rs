//! What the drivers do about an attempt of a master that has died. A master dies in these tests by being forgotten: the
//! next one gets a copy of the journal as it was at that moment, and the first one is kept from touching anything.
#![cfg(all(target_os = "linux", feature = "local", feature = "command", feature = "process"))]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use latent_worker::{
    Build, EventKind, IdlePolicy, LatentWorker, LeftoverStatus, LeftoverStep, Master, Worker, WorkerConfig,
    read_journal,
};

const LONG: Duration = Duration::from_secs(60);

/// A directory of one test, gone with it.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lw-reclaim-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn pipe(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }

    /// A named pipe that is a lifeline: the first item says that somebody holds it, the second that nobody does.
    fn lifeline(&self, name: &str) -> mpsc::Receiver<()> {
        let path = self.pipe(name);
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = fs::File::open(path).unwrap();
            let _ = sender.send(());
            line.read_to_end(&mut Vec::new()).unwrap();
            let _ = sender.send(());
        });
        receiver
    }

    fn life(&self, journal: &str, driver: impl LatentWorker) -> (Master, Worker) {
        let master = Master::builder().journal(self.path(journal)).unwrap().build();
        let config = WorkerConfig::new("w").with_idle(IdlePolicy::Never);
        let worker = master.add_worker(config, driver).unwrap();
        (master, worker)
    }

    /// The master dies: what it knew is in the journal `killed`.
    fn kill_master(&self) {
        fs::copy(self.path("journal"), self.path("killed")).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn told(receiver: &mpsc::Receiver<()>) {
    receiver.recv_timeout(LONG).expect("nobody tells");
}

/// Waits until the only leftover is gone, or its reclaim has failed.
fn reclaimed(master: &Master) -> Result<(), String> {
    let deadline = Instant::now() + LONG;
    loop {
        match &master.leftovers()[..] {
            [] => return Ok(()),
            [LeftoverStatus { reason: Some(reason), next: LeftoverStep::ReclaimIn(_), .. }] => {
                return Err(reason.to_string());
            }
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

mod local {
    use super::*;
    use latent_worker::{Command, LocalAgent, LocalLatentWorker};

    fn instances(root: &Path) -> usize {
        fs::read_dir(root).map_or(0, |entries| entries.count())
    }

    #[test]
    fn j3_local_a_dead_masters_directory_and_processes_are_removed_also_when_the_root_has_changed() {
        let place = Place::new();
        let alive = place.lifeline("alive");
        let root = place.path("root");
        let (_master, worker) = place.life("journal", LocalLatentWorker::new().root(&root));
        let lease = worker.substantiate(&Build::new("b")).wait_timeout(LONG).unwrap().unwrap();
        let directory = lease.agent::<LocalAgent>().unwrap().directory().to_owned();
        let line = format!("exec 3>{}; setsid sleep 1000 & sleep 1000 & wait", place.path("alive").display());
        let running = lease.start(&Command::shell(line)).unwrap();
        told(&alive);
        let recorded = read_journal(place.path("journal")).unwrap().instances.remove(0);
        assert_eq!(recorded.ids, [directory.to_str().unwrap().into()]);
        place.kill_master();

        let (next, _) = place.life("killed", LocalLatentWorker::new().root(place.path("another root")));
        assert_eq!(reclaimed(&next), Ok(()));
        told(&alive);
        assert_eq!(instances(&root), 0);
        drop(running);
        // And again, of what is gone: as after a crash between the reclaim and its record.
        drop(next);
        place.kill_master();
        let (again, worker) = place.life("killed", LocalLatentWorker::new().root(&root));
        assert_eq!(reclaimed(&again), Ok(()));
        drop(worker.substantiate(&Build::new("b")).wait_timeout(LONG).unwrap().unwrap());
    }

    #[test]
    fn j4_local_a_recorded_path_that_is_no_instance_is_not_touched() {
        let place = Place::new();
        let precious = place.path("precious");
        fs::create_dir(&precious).unwrap();
        let id = precious.display().to_string();
        let (_master, worker) = place.life("journal", Records(id.clone()));
        drop(worker.warm_up().wait_timeout(LONG));
        place.kill_master();
        let (next, _) = place.life("killed", LocalLatentWorker::new().root(place.path("root")));
        let reason = reclaimed(&next).unwrap_err();
        assert_eq!(reason, format!("{id:?} is not the directory of an instance; nothing was touched"));
        assert!(precious.is_dir());
    }
}

mod command {
    use super::*;
    use latent_worker::CommandLatentWorker;

    impl Place {
        /// A program that runs these lines in this directory.
        fn sh(&self, lines: &str) -> [String; 3] {
            ["/bin/sh".to_owned(), "-c".to_owned(), format!("cd '{}' || exit 99\n{lines}", self.0.display())]
        }

        fn driver(&self, start: &str, stop: &str) -> CommandLatentWorker {
            CommandLatentWorker::new(self.sh(start), self.sh(stop))
        }
    }

    fn variables(text: &str) -> Vec<(&str, &str)> {
        let lines = text.lines().filter_map(|line| line.strip_prefix("LATENT_WORKER_")?.split_once('='));
        let mut variables: Vec<_> = lines.collect();
        variables.sort_unstable();
        variables
    }

    #[test]
    fn j3_command_the_stop_program_reclaims_with_what_is_known() {
        let place = Place::new();
        let start = "env >start; echo id 7; echo $LATENT_WORKER_SECRET >secret";
        let driver = || place.driver(start, "[ $LATENT_WORKER_FAST = 0 ] || env >reclaim").secret_in_file();
        let (master, worker) = place.life("journal", place.driver(start, "true").secret_in_file());
        let events = master.events(1000);
        let request = worker.substantiate(&Build::new("b").with_property("image", "x"));
        while !matches!(events.recv_timeout(LONG).unwrap().kind, EventKind::StartReturned { .. }) {}
        place.kill_master();
        let text = place.read("start");
        let started = variables(&text);
        let value = |name: &str| started.iter().find(|(found, _)| *found == name).unwrap().1;
        let secret_file = PathBuf::from(value("SECRET_FILE"));
        let secret = fs::read_to_string(&secret_file).unwrap();
        assert!(!place.read("killed").contains(&secret), "a1: no secret is in the journal");

        let (next, worker) = place.life("killed", driver());
        assert_eq!(reclaimed(&next), Ok(()));
        let expected = [
            ("EPOCH", "1"),
            ("FAST", "1"),
            ("INSTANCE", "id 7"),
            ("KEY", value("KEY")),
            ("NAME", "w"),
            ("OWNER", value("OWNER")),
        ];
        assert_eq!(variables(&place.read("reclaim")), expected);
        assert!(!secret_file.parent().unwrap().exists());
        drop(worker);
        drop(request);
    }

    #[test]
    fn j3_command_a_program_for_it_is_run_until_it_succeeds_and_an_id_with_the_secret_is_not_recorded() {
        let place = Place::new();
        let (master, worker) = place.life("journal", place.driver("echo id $LATENT_WORKER_SECRET", "true"));
        let events = master.events(1000);
        let request = worker.warm_up();
        while !matches!(events.recv_timeout(LONG).unwrap().kind, EventKind::StartReturned { .. }) {}
        place.kill_master();
        let reclaim =
            "[ -e tried ] && { echo ${LATENT_WORKER_INSTANCE-none} >done; exit; }; touch tried; echo later >&2; exit 3";
        let driver = place.driver("exit 1", "touch stopped").reclaim(place.sh(reclaim));
        let (next, _) = place.life("killed", driver);
        let events = next.events(1000);
        let result = loop {
            if let EventKind::ReclaimReturned { result, .. } = events.recv_timeout(LONG).unwrap().kind {
                break result;
            }
        };
        if let Err(reason) = result {
            assert_eq!(&*reason, "later (exit code 3)");
        }
        let deadline = Instant::now() + LONG;
        while !next.leftovers().is_empty() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(place.read("done"), "none\n");
        assert!(!place.has("stopped"));
        drop(request);
    }

    #[test]
    fn j2_command_a_start_program_that_still_runs_is_ended_before_what_it_has_made_is_removed() {
        let place = Place::new();
        let alive = place.lifeline("alive");
        let start = "touch made; exec 3>alive; sleep 1000 & wait; touch too-late";
        let (_master, worker) = place.life("journal", place.driver(start, "true"));
        let request = worker.warm_up();
        told(&alive);
        place.kill_master();
        let (next, _) = place.life("killed", place.driver(start, "rm made"));
        assert_eq!(reclaimed(&next), Ok(()));
        told(&alive);
        assert!(!place.has("made") && !place.has("too-late"));
        drop(request);
    }

    /// A start program with unknown arguments, because it has executed another program.
    fn become_another(start: [String; 3]) {
        let place = Place::new();
        let alive = place.lifeline("alive");
        fs::write(place.path("rest.sh"), "touch made; exec 3>alive; sleep 1000 & wait; touch too-late").unwrap();
        let [shell, option, lines] = start;
        let start = [shell, option, format!("cd '{}' || exit 99; {lines}", place.0.display())];
        // The first run fails, as one may that looks at what is just being made.
        let stop = "echo run >>runs; rm -f made; [ $(wc -l <runs) -ge 2 ]";
        let driver = |stop| CommandLatentWorker::new(start.clone(), place.sh(stop)).grace(Duration::from_millis(100));
        let (_master, worker) = place.life("journal", driver("true"));
        let request = worker.warm_up();
        told(&alive);
        place.kill_master();
        let (next, _) = place.life("killed", driver(stop));
        assert_eq!(reclaimed(&next), Ok(()));
        told(&alive);
        assert!(!place.has("made") && !place.has("too-late"));
        // Once more when nothing can be made any more, which the system may show late.
        assert!(place.read("runs").lines().count() >= 2);
        drop(request);
    }

    #[test]
    fn j2_command_a_start_program_that_became_another_by_exec_is_ended() {
        become_another(["/bin/sh", "-c", "exec /bin/sh ./rest.sh"].map(str::to_owned));
    }

    #[test]
    fn j2_command_a_start_program_of_bash_that_became_its_last_command_is_ended() {
        become_another(["/bin/bash", "-c", "true; /bin/sh ./rest.sh"].map(str::to_owned));
    }

    #[test]
    fn j2_command_a_start_program_that_has_left_its_group_is_ended() {
        become_another(["/bin/sh", "-c", "setsid /bin/sh ./rest.sh >/dev/null 2>&1 &"].map(str::to_owned));
    }

    #[test]
    fn d2_command_an_instance_with_the_key_is_stopped_by_its_program_and_not_killed_before() {
        let place = Place::new();
        let (alive, told_end) = (place.lifeline("alive"), place.pipe("end"));
        let instance = "exec 3>alive; trap 'echo orderly >orderly; exit' TERM; while :; do sleep 0.01; done";
        fs::write(place.path("instance.sh"), instance).unwrap();
        let start = "setsid /bin/sh instance.sh >/dev/null 2>&1 & echo $!";
        // These steps need an order that only the stop program knows.
        let stop = "if [ -e instance.sh ]; then rm instance.sh; read pid <pid; echo stopped >>order; kill $pid; read x <end; fi";
        let start = format!("{start} >pid; cat pid");
        let driver = || place.driver(&start, stop);
        let (master, worker) = place.life("journal", driver());
        let events = master.events(1000);
        let request = worker.warm_up();
        while !matches!(events.recv_timeout(LONG).unwrap().kind, EventKind::StartReturned { .. }) {}
        told(&alive);
        place.kill_master();
        let (next, _) = place.life("killed", driver());
        told(&alive);
        fs::write(told_end, "x\n").unwrap();
        assert_eq!(reclaimed(&next), Ok(()));
        assert_eq!((place.read("orderly").as_str(), place.read("order").as_str()), ("orderly\n", "stopped\n"));
        drop(request);
    }
}

mod process {
    use super::*;
    use latent_worker::ProcessLatentWorker;

    /// An agent that stays when its master is gone, against all that was agreed.
    fn driver(place: &Place, lines: &str) -> ProcessLatentWorker {
        let lines = format!("cd '{}' || exit 99\n{lines}", place.0.display());
        ProcessLatentWorker::new(["/bin/sh", "-c", &lines]).grace(Duration::from_millis(100))
    }

    /// What the agent has noted as `note` is the path of something that must be removed.
    fn killed(agent: &str, note: Option<&str>, settings: fn(ProcessLatentWorker) -> ProcessLatentWorker) {
        let place = Place::new();
        let alive = place.lifeline("alive");
        let driver = || settings(driver(&place, agent));
        let (master, worker) = place.life("journal", driver());
        let events = master.events(1000);
        let request = worker.warm_up();
        told(&alive);
        while !matches!(events.recv_timeout(LONG).unwrap().kind, EventKind::StartReturned { .. }) {}
        place.kill_master();
        let made = note.map(|note| fs::read_to_string(place.path(note)).unwrap().trim().to_owned());
        assert!(made.as_ref().is_none_or(|path| Path::new(path).exists()));
        let (next, _) = place.life("killed", driver());
        assert_eq!(reclaimed(&next), Ok(()));
        told(&alive);
        assert!(made.is_none_or(|path| !Path::new(&path).exists()));
        drop(request);
    }

    #[test]
    fn j3_process_an_agent_is_ended_with_what_it_has_started_elsewhere() {
        let agent =
            "trap '' TERM; echo $LATENT_WORKER_SECRET_FILE >secret-file; exec 3>alive; setsid sleep 1000 & sleep 1000";
        killed(agent, Some("secret-file"), ProcessLatentWorker::secret_in_file);
    }

    #[test]
    fn j3_process_the_directory_of_an_agent_is_removed_with_what_is_locked_in_it() {
        let agent = "mkdir -p $LATENT_WORKER_DIRECTORY/a/b; chmod 555 $LATENT_WORKER_DIRECTORY/a
            echo $LATENT_WORKER_DIRECTORY >directory; exec 3>alive; sleep 1000";
        killed(agent, Some("directory"), ProcessLatentWorker::private_directory);
    }

    #[test]
    fn j3_process_an_agent_with_another_environment_is_known_by_its_number_and_start_time() {
        killed(
            "exec env -i /bin/sh -c 'exec 3>alive; trap \"\" TERM; /bin/sleep 1000 & /bin/sleep 1000'",
            None,
            |driver| driver,
        );
    }

    #[test]
    fn j4_process_a_recorded_id_that_is_another_process_by_now_is_not_touched() {
        let place = Place::new();
        let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let (master, worker) = place.life("journal", driver(&place, "sleep 1000"));
        let events = master.events(1000);
        let request = worker.warm_up();
        while !matches!(events.recv_timeout(LONG).unwrap().kind, EventKind::StartReturned { .. }) {}
        let id = read_journal(place.path("journal")).unwrap().instances[0].ids[0].clone();
        let [pid, start, boot] = id.splitn(3, ':').collect::<Vec<_>>()[..] else { panic!("{id}") };
        // The number of somebody else who was started at another time.
        let start = start.parse::<u64>().unwrap() + 1000;
        let other = place.life("other", Records(format!("{}:{start}:{boot}", stranger.id())));
        drop(other.1.warm_up().wait_timeout(LONG));
        fs::copy(place.path("other"), place.path("killed")).unwrap();
        let (next, _) = place.life("killed", driver(&place, "sleep 1000"));
        assert_eq!(reclaimed(&next), Ok(()));
        assert!(stranger.try_wait().unwrap().is_none(), "it still runs");
        assert!(Path::new("/proc").join(pid).exists());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        drop(request);
    }
}

/// A driver that records something that another one would not.
struct Records(String);

impl LatentWorker for Records {
    type Instance = latent_worker::Attachment;

    fn start_instance(
        &self,
        start: &latent_worker::StartRequest<'_>,
    ) -> Result<latent_worker::Started<Self::Instance>, latent_worker::StartError> {
        start.record(&self.0)?;
        Ok(latent_worker::Started::new(start.attacher().attach(())?))
    }

    fn stop_instance(&self, stop: latent_worker::StopRequest<Self::Instance>) -> Result<(), latent_worker::StopError> {
        drop(stop.into_instance());
        Ok(())
    }
}
