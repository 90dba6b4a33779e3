//! J1 to J6 as a master keeps them: what is in the journal when, what becomes of leftovers, and what a journal that
//! cannot be written means. The driver is scripted and the time moved by hand; the file is a real one.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use latent_worker::testing::{ManualClock, PATIENCE, Script, ScriptedWorker};
use latent_worker::{
    Build, BuildResult, DriverCall, Event, EventKind, FailureCause, JournalError, JournalStep, LeftoverStage,
    LeftoverStatus, LeftoverStep, Master, Reclaimed, ShutdownMode, SubstantiateError, Worker, WorkerConfig,
    WorkerState, read_journal,
};

use support::{SECOND, answer, eventually, reaches};

/// A directory with a journal in it, removed with its test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lw-journal-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// What the journal says now, without the master: the worker, stage and ids of each instance.
    fn says(&self) -> Vec<(String, LeftoverStage, Vec<String>)> {
        let contents = read_journal(self.journal()).unwrap();
        assert_eq!(contents.damage, None);
        let instances = contents.instances.iter();
        instances
            .map(|it| (it.worker.to_string(), it.stage, it.ids.iter().map(ToString::to_string).collect()))
            .collect()
    }

    /// The bytes of the journal as they are now: what the next master would find if this one died at this moment.
    fn snapshot(&self) -> Place {
        let copy = Place::new();
        fs::copy(self.journal(), copy.journal()).unwrap();
        copy
    }

    fn open(&self) -> Life {
        Life::new(Master::builder().journal(self.journal()).unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One life of a master.
struct Life {
    clock: ManualClock,
    master: Master,
    events: crossbeam_channel::Receiver<Event>,
}

impl Life {
    fn new(builder: latent_worker::MasterBuilder) -> Self {
        let clock = ManualClock::new();
        let master = builder.clock(clock.clone()).drop_timeout(PATIENCE).without_jitter().build();
        let events = master.events(100_000);
        Self { clock, master, events }
    }

    /// A worker whose driver reclaims.
    fn worker(&self, name: &str) -> (Worker, Script) {
        let (driver, script) = ScriptedWorker::new();
        (self.master.add_worker(WorkerConfig::new(name), driver.reclaims(true)).unwrap(), script)
    }

    fn names(&self) -> Vec<&'static str> {
        self.events.try_iter().map(|event| event.kind.name()).collect()
    }

    fn only_leftover(&self) -> LeftoverStatus {
        let [leftover] = &self.master.leftovers()[..] else { panic!("{:?}", self.master.leftovers()) };
        leftover.clone()
    }

    fn end(self) {
        let report = self.master.shutdown(ShutdownMode::Fast, PATIENCE);
        assert!(report.complete, "{report}");
    }
}

/// Starts an instance of `w` and ends the life of the master as if it had been killed then: what is left is a copy of
/// the journal. `record` is what the start does.
fn killed_after_start(ids: &[&str]) -> (Place, Option<String>) {
    let place = Place::new();
    let life = place.open();
    let (worker, script) = life.worker("w");
    let request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    let key = start.key().to_owned();
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    start.answer(move |start| {
        ids.iter().try_for_each(|id| start.record(id))?;
        Ok(Vec::new())
    });
    while life.events.recv_timeout(PATIENCE).unwrap().kind.name() != "start_returned" {}
    let killed = place.snapshot();
    script.automate_all();
    drop(request);
    life.end();
    assert_eq!(place.says(), [], "this one was ended in order");
    (killed, Some(key))
}

#[test]
fn j1_the_intent_is_durable_before_the_start_the_id_before_it_is_used_and_the_end_after_the_stop() {
    let place = Place::new();
    let synced = Arc::new(AtomicBool::new(false));
    let is_synced = synced.clone();
    let builder = Master::builder().journal_with_steps(place.journal(), 1 << 20, move |step| {
        match step {
            JournalStep::BeforeWrite => is_synced.store(false, Ordering::SeqCst),
            JournalStep::AfterSync => is_synced.store(true, Ordering::SeqCst),
            _ => {}
        }
        Ok(())
    });
    let life = Life::new(builder.unwrap());
    let (worker, script) = life.worker("w");
    assert_eq!(place.says(), []);
    let request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    assert!(synced.load(Ordering::SeqCst));
    assert_eq!(place.says(), [("w".into(), LeftoverStage::Intended, vec![])]);
    let contents = read_journal(place.journal()).unwrap();
    assert_eq!((&*contents.instances[0].key, contents.instances[0].epoch.get()), (start.key(), 1));
    assert_eq!(contents.owner.as_ref(), Some(&contents.instances[0].owner));

    let (path, owner, is_synced) = (place.journal(), contents.owner.unwrap(), synced.clone());
    start.answer(move |start| {
        assert_eq!(start.owner(), &*owner);
        start.record("id 1").unwrap();
        assert!(is_synced.load(Ordering::SeqCst));
        let said = read_journal(&path).unwrap().instances.remove(0);
        assert_eq!((said.stage, said.ids), (LeftoverStage::Known, vec!["id 1".into()]));
        start.record("id 2").unwrap();
        start.record("id 1").unwrap();
        assert!(start.record("").unwrap_err().to_string().contains("empty"));
        assert!(start.record(&"x".repeat(4097)).is_err());
        Ok(Vec::new())
    });
    worker.insubstantiate(false);
    drop(request);
    let stop = script.expect_stop();
    // That a stop was called is written with the next record that somebody waits for.
    assert_eq!(place.says(), [("w".into(), LeftoverStage::Known, vec!["id 1".into(), "id 2".into()])]);
    stop.succeed();
    reaches(&worker, WorkerState::NotSubstantiated);
    assert!(synced.load(Ordering::SeqCst));
    assert_eq!(place.says(), []);
    life.end();
}

#[test]
fn j1_an_attempt_that_is_cancelled_before_its_start_leaves_nothing_in_the_journal() {
    let place = Place::new();
    let (reached, at_intent) = crossbeam_channel::bounded(1);
    let (go_on, may_go_on) = crossbeam_channel::bounded::<()>(1);
    let armed = Arc::new(AtomicBool::new(false));
    let is_armed = armed.clone();
    let builder = Master::builder().journal_with_steps(place.journal(), 1 << 20, move |step| {
        if step == JournalStep::BeforeSync && is_armed.swap(false, Ordering::SeqCst) {
            reached.send(()).unwrap();
            may_go_on.recv().unwrap();
        }
        Ok(())
    });
    let life = Life::new(builder.unwrap());
    let (worker, script) = life.worker("w");
    armed.store(true, Ordering::SeqCst);
    let mut request = worker.substantiate(&Build::new("b"));
    at_intent.recv_timeout(PATIENCE).unwrap();
    assert_eq!(worker.status().state, WorkerState::Substantiating);
    request.cancel();
    assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::Cancelled, "w5: at once, also during a sync");
    go_on.send(()).unwrap();
    eventually(vec![], || place.says());
    assert_eq!(script.calls(), []);
    life.end();
}

#[test]
fn j2_j3_what_a_killed_master_has_left_is_reclaimed_by_its_key_and_ids() {
    let (place, key) = killed_after_start(&["id 1", "id 2"]);
    let life = place.open();
    let leftover = life.only_leftover();
    assert_eq!((leftover.next, leftover.stage), (LeftoverStep::NoWorker, LeftoverStage::Known));
    let (worker, script) = life.worker("w");
    let reclaim = script.expect_reclaim();
    let told = reclaim.leftover();
    assert_eq!((told.worker(), told.epoch().get(), Some(told.key())), ("w", 1, key.as_deref()));
    assert_eq!(told.ids().collect::<Vec<_>>(), ["id 1", "id 2"]);
    assert_eq!(told.owner(), &*leftover.owner);
    assert!(matches!(life.only_leftover().next, LeftoverStep::Reclaiming(_)));
    assert!(worker.status().held);
    reclaim.gone();
    eventually(vec![], || life.master.leftovers());
    eventually(false, || worker.status().held);
    assert_eq!(place.says(), []);
    assert_eq!(life.names(), ["left_behind", "reclaim_called", "reclaim_returned"]);

    let request = worker.substantiate(&Build::new("b"));
    assert_eq!(script.expect_start().epoch().get(), 2, "numbers of attempts do not repeat");
    script.automate_all();
    drop(request);
    life.end();
}

#[test]
fn j3_a_worker_waits_for_its_own_leftovers_and_for_no_others() {
    let (place, _) = killed_after_start(&[]);
    let life = place.open();
    let (held, held_script) = life.worker("w");
    let (free, free_script) = life.worker("free");
    let reclaim = held_script.expect_reclaim();
    assert_eq!(answer(&mut held.substantiate(&Build::new("b"))).unwrap_err(), SubstantiateError::LeftBehind);
    let first = life.master.submit(Build::new("first"));
    let second = life.master.submit(Build::new("second"));
    free_script.automate_all();
    let first = first.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    assert_eq!(&**first.worker(), "free");
    assert!(second.try_wait().is_none());
    assert_eq!(held_script.count(DriverCall::Start), 0);
    assert!(held.status().to_string().contains("waits until what was left behind is gone"), "{}", held.status());
    reclaim.gone();
    held_script.expect_start().succeed_attached();
    let second = second.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    assert_eq!(&**second.worker(), "w");
    held_script.automate_all();
    drop((first, second, free));
    life.end();
}

#[test]
fn j3_a_reclaim_that_fails_or_panics_is_tried_again_with_pauses_also_by_the_next_master() {
    let (place, key) = killed_after_start(&["id"]);
    let life = place.open();
    let (worker, script) = life.worker("w");
    script.expect_reclaim().fail("no answer");
    eventually(Some("no answer".into()), || life.only_leftover().reason);
    assert!(matches!(life.only_leftover().next, LeftoverStep::ReclaimIn(time) if time > SECOND / 3 && time <= SECOND));
    life.clock.advance(SECOND);
    script.expect_reclaim().panic();
    eventually(Some("reclaim panicked: scripted panic".into()), || life.only_leftover().reason);
    let LeftoverStep::ReclaimIn(pause) = life.only_leftover().next else { panic!("it is tried again") };
    assert!(pause > SECOND * 9 / 10 && pause <= 2 * SECOND, "{pause:?}");
    assert!(worker.status().held);
    assert_eq!(life.only_leftover().tries, 2);
    life.end();

    let life = place.open();
    assert_eq!((life.only_leftover().tries, life.only_leftover().ids), (2, vec!["id".into()]));
    let (_worker, script) = life.worker("w");
    let reclaim = script.expect_reclaim();
    assert_eq!(Some(reclaim.leftover().key()), key.as_deref());
    reclaim.gone();
    eventually(vec![], || life.master.leftovers());
    life.end();
    assert_eq!(place.says(), []);
}

#[test]
fn j3_what_may_still_come_is_looked_for_until_it_does_not_and_keeps_no_worker_waiting() {
    let (place, _) = killed_after_start(&[]);
    let life = place.open();
    let (worker, script) = life.worker("w");
    let reclaim = script.expect_reclaim();
    assert!(reclaim.leftover().age() < PATIENCE, "{:?}", reclaim.leftover());
    reclaim.pending();
    eventually(false, || worker.status().held);
    let request = worker.substantiate(&Build::new("b"));
    script.expect_start().succeed_attached();
    // Asked for again, with pauses that grow, until nothing comes any more.
    life.clock.advance(SECOND);
    script.expect_reclaim().pending();
    eventually(true, || matches!(life.only_leftover().next, LeftoverStep::ReclaimIn(_)));
    assert_eq!(life.only_leftover().tries, 0, "nothing has failed");
    life.clock.advance(1000 * SECOND);
    let reclaim = script.expect_reclaim();
    assert!(reclaim.leftover().age() >= 1000 * SECOND, "also by the clock of the master");
    reclaim.gone();
    eventually(vec![], || life.master.leftovers());
    script.automate_all();
    drop(request);
    life.end();
    assert_eq!(place.says(), []);
}

#[test]
fn j3_no_more_than_eight_are_reclaimed_at_once() {
    let place = Place::new();
    let life = place.open();
    let (driver, script) = ScriptedWorker::new();
    let driver = Arc::new(driver);
    let requests: Vec<_> = (0..20)
        .map(|number| {
            let worker = life.master.add_worker(WorkerConfig::new(format!("w{number}")), driver.clone()).unwrap();
            worker.substantiate(&Build::new("b"))
        })
        .collect();
    let starts: Vec<_> = (0..20).map(|_| script.expect_start()).collect();
    let killed = place.snapshot();
    script.automate_all();
    drop((starts, requests));
    life.end();

    let life = killed.open();
    let (driver, script) = ScriptedWorker::new();
    let driver = Arc::new(driver.reclaims(true));
    for number in 0..20 {
        life.master.add_worker(WorkerConfig::new(format!("w{number}")), driver.clone()).unwrap();
    }
    let mut running: Vec<_> = (0..8).map(|_| script.expect_reclaim()).collect();
    let mut keys = BTreeSet::new();
    for left in (0..20).rev() {
        let is_running = |leftover: &LeftoverStatus| matches!(leftover.next, LeftoverStep::Reclaiming(_));
        eventually(8.min(left + 1), || life.master.leftovers().iter().filter(|it| is_running(it)).count());
        assert!(script.count(DriverCall::Reclaim) <= 20 - left + 7);
        let reclaim = running.remove(0);
        assert!(keys.insert(reclaim.leftover().key().to_owned()), "twice");
        reclaim.gone();
        if left >= 8 {
            running.push(script.expect_reclaim());
        }
    }
    eventually(vec![], || life.master.leftovers());
    life.end();
}

#[test]
fn j5_what_the_driver_cannot_reclaim_stays_visible_and_in_the_journal_and_the_worker_is_used() {
    let (place, key) = killed_after_start(&["id"]);
    let life = place.open();
    let (driver, script) = ScriptedWorker::new();
    let worker = life.master.add_worker(WorkerConfig::new("w"), driver).unwrap();
    eventually(LeftoverStep::Unsupported, || life.only_leftover().next);
    eventually(false, || worker.status().held);
    let request = worker.substantiate(&Build::new("b"));
    script.expect_start().fail("no");
    script.automate_all();
    drop(request);
    life.end();

    let life = place.open();
    let key = key.unwrap();
    assert_eq!(&*life.only_leftover().key, key);
    assert!(!life.master.forget_leftover("somebody else's"));
    assert!(life.master.forget_leftover(&key), "somebody has looked after it");
    assert_eq!((life.master.leftovers(), place.says()), (vec![], vec![]));
    life.end();
}

#[test]
fn j5_leftovers_of_a_worker_that_is_not_configured_stay_visible_and_in_the_journal() {
    let (place, _) = killed_after_start(&["id"]);
    for _ in 0..2 {
        let life = place.open();
        let (_other, script) = life.worker("other");
        life.clock.advance(100_000 * SECOND);
        let status = life.only_leftover();
        assert_eq!((&*status.worker, status.next), ("w", LeftoverStep::NoWorker));
        assert!(status.to_string().contains("known, id; there is no such worker"), "{status}");
        assert_eq!(script.count(DriverCall::Reclaim), 0);
        life.end();
        assert_eq!(place.says().len(), 1);
    }
}

fn failed_stop(life: &Life, worker: &Worker, script: &Script) -> String {
    let request = worker.warm_up();
    let start = script.expect_start();
    let key = start.key().to_owned();
    start.answer(|start| {
        start.record("the id")?;
        Ok(Vec::new())
    });
    drop(request);
    script.expect_stop().fail("no answer");
    reaches(worker, WorkerState::NotSubstantiated);
    assert_eq!(&*life.only_leftover().key, key);
    key
}

#[test]
fn j5_a_failed_stop_is_reclaimed_without_a_journal_too_and_then_the_worker_is_free_at_once() {
    let life = Life::new(Master::builder());
    let (worker, script) = life.worker("w");
    let key = failed_stop(&life, &worker, &script);
    let leftover = life.only_leftover();
    assert_eq!((leftover.reason.as_deref(), leftover.tries, leftover.of_earlier_master), (Some("no answer"), 1, false));
    assert!(worker.status().quarantine.is_some());
    assert_eq!(script.count(DriverCall::Reclaim), 0, "after a pause");
    life.clock.advance(SECOND);
    let reclaim = script.expect_reclaim();
    assert_eq!((reclaim.leftover().key(), reclaim.leftover().stage()), (&*key, LeftoverStage::Stopping));
    assert_eq!(reclaim.leftover().ids().collect::<Vec<_>>(), ["the id"]);
    reclaim.fail("still no answer");
    eventually(2, || life.only_leftover().tries);
    life.clock.advance(2 * SECOND);
    script.expect_reclaim().gone();
    eventually(None, || worker.status().quarantine);
    assert_eq!(life.master.leftovers(), []);
    script.automate_all();
    answer(&mut worker.warm_up()).unwrap();
    assert_eq!(script.count(DriverCall::Stop), 1, "w2: the stop itself is not called again");
    life.end();
}

#[test]
fn j5_a_failed_stop_that_is_in_nobodys_way_leaves_the_worker_free() {
    let life = Life::new(Master::builder());
    let (worker, script) = life.worker("w");
    failed_stop(&life, &worker, &script);
    life.clock.advance(SECOND);
    script.expect_reclaim().pending();
    eventually(None, || worker.status().quarantine);
    assert_eq!(life.master.leftovers().len(), 1);
    script.automate_all();
    answer(&mut worker.warm_up()).unwrap();
    life.end();
}

#[test]
fn j5_after_the_quarantine_the_worker_is_free_though_the_leftover_is_not_gone() {
    let place = Place::new();
    let life = place.open();
    let (worker, script) = life.worker("w");
    let key = failed_stop(&life, &worker, &script);
    life.clock.advance(10 * SECOND);
    let reclaim = script.expect_reclaim();
    eventually(None, || worker.status().quarantine);
    let request = worker.warm_up();
    let start = script.expect_start();
    assert_ne!(start.key(), key);
    start.fail("no room");
    script.expect_stop().succeed();
    drop(request);
    eventually(true, || worker.status().quarantine.is_some());
    // The quarantine of this failure is not ended by the reclaim of the other one.
    reclaim.gone();
    eventually(vec![], || life.master.leftovers());
    life.clock.advance(SECOND);
    assert!(worker.status().quarantine.is_some());
    life.end();
    assert_eq!(place.says(), []);
}

#[test]
fn j5_a_failed_stop_stays_in_the_journal_with_its_reason() {
    let place = Place::new();
    let life = place.open();
    let (worker, script) = life.worker("w");
    failed_stop(&life, &worker, &script);
    life.end();
    let said = read_journal(place.journal()).unwrap().instances.remove(0);
    assert_eq!((said.stage, said.tries, said.reason.as_deref()), (LeftoverStage::Stopping, 1, Some("no answer")));
    assert_eq!(said.ids, ["the id".into()]);
    let life = place.open();
    assert!(life.only_leftover().of_earlier_master);
    life.end();
}

#[test]
fn j3_a_graceful_shutdown_waits_for_reclaims_that_are_due_and_tells_what_is_left() {
    for fails in [false, true] {
        let (place, _) = killed_after_start(&[]);
        let life = place.open();
        let (_worker, script) = life.worker("w");
        let reclaim = script.expect_reclaim();
        let leftover = reclaim.leftover().clone();
        let (events, master) = (life.master.events(100), life.master.clone());
        let shutdown = std::thread::spawn(move || master.shutdown(ShutdownMode::Graceful, PATIENCE));
        let begins = |event: latent_worker::Event| matches!(event.kind, EventKind::Shutdown { .. });
        while !begins(events.recv_timeout(PATIENCE).unwrap()) {}
        assert!(!leftover.cancelled());
        if fails {
            reclaim.fail("not now");
        } else {
            reclaim.gone();
        }
        let report = shutdown.join().unwrap();
        assert!(report.complete && report.reclaiming.is_empty());
        assert_eq!(report.left_behind.len(), usize::from(fails), "it is not tried again");
        assert_eq!(report.to_string().contains("left behind: w"), fails, "{report}");
        life.end();
        assert_eq!(place.says().len(), usize::from(fails));
    }
}

#[test]
fn j3_a_shutdown_cancels_a_reclaim_waits_for_it_and_names_it() {
    let (place, _) = killed_after_start(&[]);
    let life = place.open();
    let (_worker, script) = life.worker("w");
    let reclaim = script.expect_reclaim();
    let leftover = reclaim.leftover().clone();
    assert!(!leftover.cancelled());
    // A graceful one may be called again to wait longer, and cuts nothing.
    for (mode, cancels) in
        [(ShutdownMode::Graceful, false), (ShutdownMode::Graceful, false), (ShutdownMode::Fast, true)]
    {
        let report = life.master.shutdown(mode, SECOND / 100);
        assert!(!report.complete && report.in_flight.is_empty());
        assert_eq!((report.reclaiming.len(), report.left_behind.len()), (1, 1));
        assert!(report.to_string().contains("being reclaimed for"), "{report}");
        assert_eq!(leftover.cancelled(), cancels);
    }
    assert!(leftover.sleep(Duration::MAX).is_err());
    reclaim.fail("cancelled");
    life.end();
    assert_eq!(place.says().len(), 1);
    assert!(Master::builder().journal(place.journal()).is_ok(), "the lock is gone with the master");
}

#[test]
fn j3_a_reclaim_may_sleep_on_the_clock_of_the_master_and_call_it() {
    let (place, _) = killed_after_start(&[]);
    let life = place.open();
    let (worker, script) = life.worker("w");
    let (asked, sleeping) = crossbeam_channel::bounded(1);
    let master = life.master.clone();
    script.expect_reclaim().answer(move |leftover| {
        assert_eq!(master.leftovers().len(), 1);
        asked.send(()).unwrap();
        leftover.sleep(3600 * SECOND)?;
        drop(master);
        Ok(Reclaimed::Gone)
    });
    sleeping.recv_timeout(PATIENCE).unwrap();
    eventually(false, || {
        life.clock.advance(3600 * SECOND);
        worker.status().held
    });
    life.end();
}

#[test]
fn j6_a_second_master_on_the_same_journal_is_refused_while_anything_of_the_first_is_in_flight() {
    let place = Place::new();
    let life = place.open();
    let refused = || match Master::builder().journal(place.journal()) {
        Err(error @ JournalError::InUse { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(refused().contains(&format!("by process {}", std::process::id())));
    let (worker, script) = life.worker("w");
    let request = worker.substantiate(&Build::new("b"));
    let start = script.expect_start();
    assert!(!life.master.shutdown(ShutdownMode::Fast, Duration::ZERO).complete);
    refused();
    start.fail("cancelled");
    script.automate_all();
    drop((request, worker));
    life.end();
    place.open().end();
}

#[test]
fn j6_damage_is_reported_and_what_came_before_is_reclaimed() {
    let (place, _) = killed_after_start(&["id"]);
    let mut bytes = fs::read(place.journal()).unwrap();
    bytes.extend_from_slice(b"intended w 2 to");
    fs::write(place.journal(), bytes).unwrap();
    let life = place.open();
    let damage = life.master.journal_damage().unwrap();
    let aside = place.0.join("journal.damaged-1");
    assert!(damage.contains("is not complete") && damage.ends_with(&aside.display().to_string()), "{damage}");
    assert_eq!(fs::read(aside).unwrap(), b"intended w 2 to");
    let (_worker, script) = life.worker("w");
    script.expect_reclaim().gone();
    eventually(vec![], || life.master.leftovers());
    life.end();
    let life = place.open();
    assert_eq!(life.master.journal_damage(), None);
    life.end();
}

#[test]
fn j1_with_a_full_disk_nothing_starts_what_runs_is_stopped_and_it_goes_on_when_there_is_room() {
    let place = Place::new();
    let full = Arc::new(AtomicBool::new(false));
    let is_full = full.clone();
    let builder = Master::builder().journal_with_steps(place.journal(), 1 << 20, move |step| match step {
        JournalStep::BeforeWrite if is_full.load(Ordering::SeqCst) => Err(ErrorKind::StorageFull.into()),
        _ => Ok(()),
    });
    let life = Life::new(builder.unwrap());
    let (running, running_script) = life.worker("running");
    let (refused, refused_script) = life.worker("refused");
    let (recording, recording_script) = life.worker("recording");
    let mut warm = running.warm_up();
    running_script.expect_start().succeed_attached();
    answer(&mut warm).unwrap();
    let request = recording.warm_up();
    let start = recording_script.expect_start();
    full.store(true, Ordering::SeqCst);

    let error = answer(&mut refused.substantiate(&Build::new("b"))).unwrap_err();
    let SubstantiateError::Failed { cause: FailureCause::Infrastructure, reason } = &error else { panic!("{error}") };
    let expected =
        format!("nothing is started without a journal: cannot write the journal {}", place.journal().display());
    assert!(reason.starts_with(&expected) && reason.contains("no storage space"), "{reason}");
    assert_eq!(refused_script.calls(), [], "neither a start nor a stop");
    // It is not the worker's failure: its quarantine does not double.
    for _ in 0..5 {
        assert_eq!(refused.status().quarantine, Some(10 * SECOND));
        life.clock.advance(10 * SECOND);
        assert!(answer(&mut refused.warm_up()).is_err());
    }

    start.answer(|start| {
        start.record("id")?;
        panic!("it could not be recorded");
    });
    let stop = recording_script.expect_stop();
    assert!(!stop.had_instance());
    stop.succeed();
    drop(request);
    running.insubstantiate(false);
    running_script.expect_stop().succeed();
    reaches(&running, WorkerState::NotSubstantiated);
    reaches(&recording, WorkerState::NotSubstantiated);
    assert_eq!(life.names().iter().filter(|name| **name == "journal_trouble").count(), 1, "told once");

    full.store(false, Ordering::SeqCst);
    refused.unpause();
    let request = refused.warm_up();
    refused_script.expect_start().succeed();
    assert_eq!(place.says(), [("refused".into(), LeftoverStage::Intended, vec![])], "the ends are in it as well");
    refused_script.automate_all();
    drop(request);
    life.end();
}

#[test]
fn b2_with_a_full_disk_builds_wait_and_no_attempt_of_theirs_counts() {
    let place = Place::new();
    let full = Arc::new(AtomicBool::new(false));
    let is_full = full.clone();
    let builder = Master::builder().journal_with_steps(place.journal(), 1 << 20, move |step| match step {
        JournalStep::BeforeWrite if is_full.load(Ordering::SeqCst) => Err(ErrorKind::StorageFull.into()),
        _ => Ok(()),
    });
    let life = Life::new(builder.unwrap());
    let workers = ["first", "second"].map(|name| life.worker(name));
    full.store(true, Ordering::SeqCst);
    let once = std::num::NonZeroU32::MIN;
    let builds = ["a", "b"].map(|name| life.master.submit(Build::new(name).with_max_attempts(once)));
    for round in 1..=5 {
        // Nothing doubles.
        eventually([Some(10 * SECOND); 2], || workers.each_ref().map(|(worker, _)| worker.status().quarantine));
        assert!(builds.iter().all(|build| build.try_wait().is_none()), "they wait");
        if round == 5 {
            full.store(false, Ordering::SeqCst);
        }
        life.clock.advance(10 * SECOND);
    }

    workers.iter().for_each(|(_, script)| script.expect_start().succeed_attached());
    for build in builds {
        let lease = build.wait().unwrap();
        assert!(lease.history().is_empty());
        lease.finish(BuildResult::Succeeded);
    }
    workers.iter().for_each(|(_, script)| script.automate_all());
    life.end();
}

#[test]
fn j1_an_id_that_could_not_be_recorded_is_not_taken_for_recorded_the_next_time() {
    let place = Place::new();
    let full = Arc::new(AtomicBool::new(false));
    let is_full = full.clone();
    let builder = Master::builder().journal_with_steps(place.journal(), 1 << 20, move |step| match step {
        JournalStep::BeforeWrite if is_full.load(Ordering::SeqCst) => Err(ErrorKind::StorageFull.into()),
        _ => Ok(()),
    });
    let life = Life::new(builder.unwrap());
    let (worker, script) = life.worker("w");
    let mut request = worker.warm_up();
    let start = script.expect_start();
    let journal = place.journal();
    start.answer(move |start| {
        let says = || read_journal(&journal).unwrap().instances.remove(0).ids;
        full.store(true, Ordering::SeqCst);
        assert!(start.record("i-1").is_err());
        assert!(start.record("i-1").is_err(), "nothing is durable yet");
        assert!(says().is_empty());
        full.store(false, Ordering::SeqCst);
        start.record("i-1").unwrap();
        assert_eq!(says(), ["i-1".into()]);
        start.attacher().attach(()).map(std::mem::forget)?;
        Ok(Vec::new())
    });
    answer(&mut request).unwrap();
    script.automate_all();
    life.end();
}

#[test]
fn j1_a_stop_does_not_wait_for_a_disk_that_hangs() {
    let place = Place::new();
    let (reached, hangs) = crossbeam_channel::bounded(1);
    let (go_on, may_go_on) = crossbeam_channel::bounded::<()>(1);
    let armed = Arc::new(AtomicBool::new(false));
    let is_armed = armed.clone();
    let builder = Master::builder().journal_with_steps(place.journal(), 1 << 20, move |step| {
        if step == JournalStep::BeforeSync && is_armed.swap(false, Ordering::SeqCst) {
            reached.send(()).unwrap();
            may_go_on.recv().unwrap();
        }
        Ok(())
    });
    let life = Life::new(builder.unwrap());
    let (running, running_script) = life.worker("running");
    let (starting, starting_script) = life.worker("starting");
    let mut warm = running.warm_up();
    running_script.expect_start().succeed_attached();
    answer(&mut warm).unwrap();
    armed.store(true, Ordering::SeqCst);
    let request = starting.warm_up();
    hangs.recv_timeout(PATIENCE).unwrap();
    running.insubstantiate(true);
    running_script.expect_stop().succeed();
    go_on.send(()).unwrap();
    reaches(&running, WorkerState::NotSubstantiated);
    starting_script.expect_start().fail("no");
    starting_script.automate_all();
    drop(request);
    life.end();
    assert_eq!(place.says(), []);
}

/// A clock that holds up whoever asks for the time on the thread `forget`.
struct HoldsUp {
    clock: ManualClock,
    reached: crossbeam_channel::Sender<()>,
    may_go_on: crossbeam_channel::Receiver<()>,
}

impl latent_worker::Clock for HoldsUp {
    fn now(&self) -> std::time::Instant {
        if std::thread::current().name() == Some("forget") {
            let _ = self.reached.send(());
            let _ = self.may_go_on.recv();
        }
        self.clock.now()
    }

    fn real_time_until(&self, deadline: std::time::Instant) -> Option<Duration> {
        self.clock.real_time_until(deadline)
    }

    fn subscribe(&self, on_jump: Box<dyn Fn() + Send + Sync>) {
        self.clock.subscribe(on_jump);
    }
}

#[test]
fn j5_that_a_leftover_is_gone_does_not_end_the_quarantine_of_a_later_one() {
    let (reached, held_up) = crossbeam_channel::bounded(1);
    let (go_on, may_go_on) = crossbeam_channel::bounded::<()>(0);
    let clock = ManualClock::new();
    let master = Master::builder().clock(HoldsUp { clock: clock.clone(), reached, may_go_on }).build();
    let events = master.events(100_000);
    let life = Life { clock, master, events };
    let (worker, script) = life.worker("w");
    let key = failed_stop(&life, &worker, &script);
    let master = life.master.clone();
    let forget = std::thread::Builder::new().name("forget".to_owned());
    let forget = forget.spawn(move || assert!(master.forget_leftover(&key))).unwrap();
    // The first leftover is off the list, and its worker has not been told.
    held_up.recv_timeout(PATIENCE).unwrap();
    worker.unpause();
    failed_stop(&life, &worker, &script);
    drop(go_on);
    forget.join().unwrap();
    assert!(worker.status().quarantine.is_some(), "{}", worker.status());
    assert_eq!(life.master.leftovers().len(), 1);
    script.automate_all();
    life.end();
}

#[test]
fn w14_unpausing_a_worker_that_is_held_has_it_used() {
    let (place, _) = killed_after_start(&[]);
    let life = place.open();
    let (worker, script) = life.worker("w");
    let reclaim = script.expect_reclaim();
    worker.unpause();
    let request = worker.warm_up();
    script.expect_start().fail("enough");
    script.automate_all();
    drop(request);
    reclaim.gone();
    life.end();
}

#[test]
fn without_a_journal_every_master_has_an_owner_of_its_own_and_ids_can_be_recorded() {
    let owner = || {
        let life = Life::new(Master::builder());
        let (worker, script) = life.worker("w");
        let request = worker.warm_up();
        let (told, owner) = crossbeam_channel::bounded(1);
        script.expect_start().answer(move |start| {
            start.record("id")?;
            told.send(start.owner().to_owned()).unwrap();
            Ok(Vec::new())
        });
        let owner = owner.recv_timeout(PATIENCE).unwrap();
        script.automate_all();
        drop(request);
        life.end();
        owner
    };
    let (a, b) = (owner(), owner());
    assert_eq!((a.len(), b.len()), (32, 32));
    assert_ne!(a, b);
}

#[test]
fn the_events_of_a_leftover_are_told() {
    let (place, _) = killed_after_start(&[]);
    let life = place.open();
    let (_worker, script) = life.worker("w");
    script.expect_reclaim().fail("no answer");
    let returned = loop {
        let event = life.events.recv_timeout(PATIENCE).unwrap();
        if matches!(event.kind, EventKind::ReclaimReturned { .. }) {
            break event;
        }
        let text = event.to_string();
        assert!(text.starts_with("worker w: left behind: an earlier master") || text == "worker w: reclaim called");
    };
    let text = returned.to_string();
    assert!(text.starts_with("worker w: reclaim returned: no answer; again in "), "{text}");
    life.end();
}

/// How many threads there are of this name. Linux shows the first 15 bytes of it.
#[cfg(target_os = "linux")]
fn threads_named(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|found| found.trim_end() == name).count()
}

#[cfg(target_os = "linux")]
#[test]
fn s2_w14_attempts_that_are_cancelled_while_the_disk_hangs_share_a_thread_and_a_shutdown_names_their_worker() {
    let place = Place::new();
    let (reached, hangs) = crossbeam_channel::bounded(1);
    let (go_on, may_go_on) = crossbeam_channel::bounded::<()>(0);
    let armed = Arc::new(AtomicBool::new(false));
    let is_armed = armed.clone();
    let builder = Master::builder().journal_with_steps(place.journal(), 1 << 20, move |step| {
        if step == JournalStep::BeforeSync && is_armed.swap(false, Ordering::SeqCst) {
            reached.send(()).unwrap();
            let _ = may_go_on.recv();
        }
        Ok(())
    });
    let life = Life::new(builder.unwrap());
    let (worker, script) = life.worker("hangs");
    armed.store(true, Ordering::SeqCst);
    for _ in 0..10 {
        let mut request = worker.warm_up();
        assert_eq!(worker.status().state, WorkerState::Substantiating);
        request.cancel();
        assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::Cancelled);
    }
    hangs.recv_timeout(PATIENCE).unwrap();
    assert_eq!(threads_named("lw hangs"), 1);
    let mut request = worker.warm_up();
    let report = life.master.shutdown(ShutdownMode::Fast, Duration::ZERO);
    assert_eq!(answer(&mut request).unwrap_err(), SubstantiateError::ShutDown);
    assert!(!report.complete);
    assert_eq!(report.in_flight.iter().map(|status| &*status.name).collect::<Vec<_>>(), ["hangs"], "{report}");
    assert!(report.to_string().contains("waits for the journal"), "{report}");
    drop(go_on);
    life.end();
    assert_eq!((script.calls(), place.says()), (vec![], vec![]));
}

#[test]
fn w4_an_attempt_that_was_cancelled_while_the_disk_hung_is_followed_by_the_next_one() {
    let place = Place::new();
    let (reached, hangs) = crossbeam_channel::bounded(1);
    let (go_on, may_go_on) = crossbeam_channel::bounded::<()>(0);
    let armed = Arc::new(AtomicBool::new(false));
    let is_armed = armed.clone();
    let builder = Master::builder().journal_with_steps(place.journal(), 1 << 20, move |step| {
        if step == JournalStep::BeforeSync && is_armed.swap(false, Ordering::SeqCst) {
            reached.send(()).unwrap();
            let _ = may_go_on.recv();
        }
        Ok(())
    });
    let life = Life::new(builder.unwrap());
    let (worker, script) = life.worker("w");
    armed.store(true, Ordering::SeqCst);
    let first = worker.warm_up();
    hangs.recv_timeout(PATIENCE).unwrap();
    first.cancel();
    let mut second = worker.substantiate(&Build::new("b").with_property("which", "second"));
    drop(go_on);
    let start = script.expect_start();
    assert_eq!(start.epoch().get(), 2);
    start.succeed_attached();
    drop(answer(&mut second).unwrap());
    script.automate_all();
    life.end();
    assert_eq!(place.says(), []);
}

/// The directory in which a small disk is mounted, for the process that lives on it.
#[cfg(target_os = "linux")]
const SMALL_DISK: &str = "LW_SMALL_DISK";

#[cfg(target_os = "linux")]
#[test]
#[ignore = "needs root, unshare, setpriv and mount"]
fn j1_with_a_disk_that_is_really_full_or_read_only_nothing_starts_and_what_runs_is_stopped() {
    let place = Place::new();
    let mut life = std::process::Command::new("unshare");
    // Without the right of root to write where nobody may.
    life.args(["--mount", "setpriv", "--bounding-set=-dac_override,-dac_read_search", "sh", "-c"]);
    life.args(["mount -t tmpfs -o size=64k,mode=755 none \"$1\" && shift && exec \"$@\"", "sh"]).arg(&place.0);
    life.arg(std::env::current_exe().unwrap()).args(["--exact", "a_life_on_a_small_disk", "--nocapture"]);
    let output = life.env(SMALL_DISK, &place.0).output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&told));
    assert!(String::from_utf8_lossy(&told).contains("1 passed"), "{}", String::from_utf8_lossy(&told));
}

/// Not a test of its own: what the one above runs in a process of its own.
#[cfg(target_os = "linux")]
#[test]
fn a_life_on_a_small_disk() {
    use std::os::unix::fs::PermissionsExt;

    let Some(disk) = std::env::var_os(SMALL_DISK) else { return };
    let place = Place(disk.into());
    let may_write = |mode| fs::set_permissions(&place.0, fs::Permissions::from_mode(mode)).unwrap();
    let ballast = fs::File::create(place.0.join("ballast")).unwrap();

    nothing_starts_while(&place, &ballast, "No space left on device", || {}, || ballast.set_len(0).unwrap());
    // There is room again, but no new file can be made for what was not written completely.
    let make_room = || {
        may_write(0o555);
        ballast.set_len(0).unwrap();
    };
    nothing_starts_while(&place, &ballast, "Permission denied", make_room, || may_write(0o755));

    let refused = |name: &str| Master::builder().journal(place.0.join(name)).unwrap_err().to_string();
    may_write(0o555);
    assert!(refused("new").starts_with("cannot open the journal ") && refused("new").contains("Permission denied"));
    // One that is there already needs the directory only when it has become long.
    let life = place.open();
    let (worker, script) = life.worker("w");
    script.automate_all();
    answer(&mut worker.warm_up()).unwrap();
    life.end();
    may_write(0o755);

    // Whoever has a file open keeps its disk from that.
    drop((worker, script, ballast));
    let mount = std::process::Command::new("mount").args(["-o", "remount,ro"]).arg(&place.0).status().unwrap();
    assert!(mount.success());
    assert!(refused("journal").starts_with("cannot open the journal "), "{}", refused("journal"));
    assert!(refused("journal").contains("Read-only file system"), "{}", refused("journal"));
    assert_eq!(place.says(), []);
}

/// The disk runs full while a record is written, and then is as `trouble` makes it, until that `ends`.
#[cfg(target_os = "linux")]
fn nothing_starts_while(place: &Place, mut ballast: &fs::File, why: &str, trouble: impl Fn(), ends: impl Fn()) {
    use std::io::Write;

    let life = place.open();
    let (running, running_script) = life.worker("running");
    let (recording, recording_script) = life.worker("recording");
    let (refused, refused_script) = life.worker("refused");
    answer_start(&running, &running_script);
    let mut request = recording.warm_up();
    let start = recording_script.expect_start();
    let full = std::iter::repeat_with(|| ballast.write(&[0; 1024])).find_map(Result::err).unwrap();
    assert_eq!(full.kind(), ErrorKind::StorageFull);

    start.answer(|start| {
        start.record(&"x".repeat(4096))?;
        panic!("there was room");
    });
    let error = answer(&mut request).unwrap_err().to_string();
    assert!(error.contains("could not be recorded") && error.contains("No space left on device"), "{error}");
    recording_script.expect_stop().succeed();
    reaches(&recording, WorkerState::NotSubstantiated);
    let killed = read_journal(place.journal()).unwrap();
    let found: Vec<_> = killed.instances.iter().map(|it| &*it.worker).collect();
    assert!(found.contains(&"running") && found.contains(&"recording"), "the next master would find {found:?}");
    assert_eq!(killed.damage.as_deref().map(|damage| damage.contains("is not complete")), Some(true));

    trouble();
    let error = answer(&mut refused.warm_up()).unwrap_err().to_string();
    assert!(error.contains("nothing is started without a journal: cannot write the journal "), "{error}");
    assert!(error.contains(why), "{error}");
    assert_eq!(refused_script.calls(), []);
    running.insubstantiate(false);
    running_script.expect_stop().succeed();
    reaches(&running, WorkerState::NotSubstantiated);

    ends();
    refused.unpause();
    let request = refused.warm_up();
    let start = refused_script.expect_start();
    assert_eq!(place.says(), [("refused".into(), LeftoverStage::Intended, vec![])], "the ends are in it as well");
    start.fail("enough");
    refused_script.automate_all();
    drop(request);
    life.end();
    assert_eq!(place.says(), []);
}

#[cfg(target_os = "linux")]
fn answer_start(worker: &Worker, script: &Script) {
    let mut request = worker.warm_up();
    script.expect_start().succeed_attached();
    answer(&mut request).unwrap();
}
