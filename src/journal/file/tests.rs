use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;

/// A directory for one test, removed with it.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lw-journal-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> PathBuf {
        self.0.join("journal")
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open_with(path: &Path, steps: Steps) -> Result<Journal, JournalError> {
    Journal::open(path, steps, || Ok("owner".to_owned()))
}

fn open(path: &Path) -> Journal {
    open_with(path, Steps::default()).unwrap()
}

fn key(number: u64) -> Arc<str> {
    format!("{number:032x}").into()
}

fn intend(journal: &Journal, number: u64) -> Result<(), Arc<str>> {
    journal.intend(&"w".into(), Epoch(number), &key(number))
}

fn gone(journal: &Journal, number: u64) {
    journal.append(Record::Gone { key: key(number) }, Until::Synced).unwrap();
}

fn open_epochs(journal: &Journal) -> Vec<u64> {
    journal.open_attempts().iter().map(|open| open.remains.epoch.0).collect()
}

/// Runs `step` whenever the journal reaches that step.
fn at(wanted: JournalStep, step: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Steps {
    Steps::told_to(move |reached| if reached == wanted { step() } else { Ok(()) })
}

#[test]
fn what_was_appended_is_there_the_next_time() {
    let place = Place::new();
    let journal = open(&place.path());
    (1..=3).for_each(|number| intend(&journal, number).unwrap());
    gone(&journal, 2);
    drop(journal);
    let journal = Journal::open(&place.path(), Steps::default(), || panic!("it has an owner")).unwrap();
    assert_eq!((&**journal.owner(), open_epochs(&journal)), ("owner", vec![1, 3]));
    assert_eq!((journal.last_epoch("w"), journal.last_epoch("x")), (Epoch(3), Epoch(0)));
    assert_eq!((place.files(), journal.damage()), (vec!["journal".to_owned()], None));
}

#[test]
fn j6_a_second_master_is_refused_and_told_who_the_first_one_is() {
    let place = Place::new();
    let journal = open(&place.path());
    let error = open_with(&place.path(), Steps::default()).map(|_| ()).unwrap_err().to_string();
    let holder = format!("is in use by process {}", std::process::id());
    assert!(error.contains(&place.path().display().to_string()) && error.contains(&holder), "{error}");
    drop(journal);
    open(&place.path());
}

#[test]
fn j6_the_lock_goes_over_to_the_new_file() {
    let place = Place::new();
    fs::write(place.path(), "latent-worker-jour").unwrap();
    let journal = open(&place.path());
    assert!(matches!(open_with(&place.path(), Steps::default()), Err(JournalError::InUse { .. })));
    intend(&journal, 1).unwrap();
    drop(journal);
    assert_eq!(open_epochs(&open(&place.path())), [1]);
}

#[test]
fn j6_a_lock_on_a_file_that_was_replaced_is_none() {
    let place = Place::new();
    drop(open(&place.path()));
    let old = File::open(place.path()).unwrap();
    old.lock().unwrap();
    assert!(is_named_by(&old, &place.path()).unwrap());
    fs::rename(place.path(), place.0.join("moved")).unwrap();
    assert!(!is_named_by(&old, &place.path()).unwrap());
    open(&place.path());
    assert!(!is_named_by(&old, &place.path()).unwrap());
}

#[test]
fn j6_damage_is_set_aside_and_the_rest_goes_on() {
    let place = Place::new();
    let journal = open(&place.path());
    (1..=3).for_each(|number| intend(&journal, number).unwrap());
    drop(journal);
    let good = fs::read(place.path()).unwrap();
    let second = good.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(2).unwrap().0 + 1;
    let mut bad = good.clone();
    bad[second + 20] ^= 1;
    bad.extend_from_slice(b"intended w 4 torn");
    fs::write(place.path(), &bad).unwrap();

    let read = read_journal(place.path()).unwrap();
    assert_eq!(read.damage.as_deref(), Some("2 lines are damaged, the first of them is line 4"));
    assert_eq!(fs::read(place.path()).unwrap(), bad, "reading changes nothing");
    // The same damage is not copied again.
    for number in [1, 1, 2] {
        if number == 2 {
            bad.extend_from_slice(b", and more");
            fs::write(place.path(), &bad).unwrap();
        }
        let journal = open(&place.path());
        assert_eq!(open_epochs(&journal), [1, 3]);
        let damage = journal.damage().expect("reported").to_string();
        let aside = place.0.join(format!("journal.damaged-{number}"));
        assert!(damage.starts_with("2 lines are damaged") && damage.ends_with(aside.to_str().unwrap()), "{damage}");
        assert_eq!(fs::read(aside).unwrap(), bad[second..]);
        drop(journal);
        assert_eq!(open(&place.path()).damage(), None, "it is whole again");
        fs::write(place.path(), &bad).unwrap();
    }
}

#[test]
fn j6_cut_at_every_byte_it_opens_goes_on_and_loses_no_earlier_record() {
    let place = Place::new();
    let journal = open(&place.path());
    (1..=3).for_each(|number| intend(&journal, number).unwrap());
    gone(&journal, 1);
    drop(journal);
    let bytes = fs::read(place.path()).unwrap();
    for length in 0..=bytes.len() {
        let place = Place::new();
        fs::write(place.path(), &bytes[..length]).unwrap();
        let expected = recovery::read(&bytes[..length]).unwrap().state;
        let journal = open(&place.path());
        assert_eq!(journal.open_attempts(), expected.open.values().cloned().collect::<Vec<_>>());
        assert_eq!(journal.damage().is_some(), length == 0 || bytes[length - 1] != b'\n', "cut at {length}");
        intend(&journal, 9).unwrap();
        drop(journal);
        let again = open(&place.path());
        assert_eq!(again.damage(), None);
        assert_eq!(again.open_attempts().len(), expected.open.len() + 1);
    }
}

#[test]
fn j6_what_is_no_journal_is_left_alone() {
    let place = Place::new();
    fs::write(place.path(), "a letter\n").unwrap();
    assert!(matches!(open_with(&place.path(), Steps::default()), Err(JournalError::NotAJournal { .. })));
    assert_eq!(fs::read(place.path()).unwrap(), b"a letter\n");
    for no_file in [place.0.as_path(), Path::new("/dev/null")] {
        assert!(open_with(no_file, Steps::default()).is_err(), "{}", no_file.display());
    }
    assert_eq!(place.files(), ["journal"]);
    let error = open_with(&place.0.join("nowhere/journal"), Steps::default()).map(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with("cannot open the journal "), "{error}");
}

#[test]
fn j1_appenders_share_a_sync() {
    const APPENDERS: u64 = 64;
    let place = Place::new();
    let (syncing, first_sync) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let (syncing, may_go_on) = (Mutex::new(syncing), Mutex::new(may_go_on));
    let syncs = Arc::new(AtomicUsize::new(0));
    let counted = syncs.clone();
    let steps = at(JournalStep::BeforeSync, move || {
        // The first sync is that of the open; the second one is delayed until all other threads have appended.
        if counted.fetch_add(1, Ordering::SeqCst) == 1 {
            syncing.lock().send(()).unwrap();
            may_go_on.lock().recv().unwrap();
        }
        Ok(())
    });
    let journal = open_with(&place.path(), steps).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| intend(&journal, 0).unwrap());
        first_sync.recv().unwrap();
        (1..=APPENDERS).for_each(|number| {
            _ = scope.spawn({
                let journal = &journal;
                move || intend(journal, number).unwrap()
            })
        });
        while journal.inner.lock().appended < APPENDERS + 2 {
            thread::yield_now();
        }
        go_on.send(()).unwrap();
    });
    assert_eq!(syncs.load(Ordering::SeqCst), 3, "open, the first one, and one for all others");
    drop(journal);
    assert_eq!(open(&place.path()).open_attempts().len() as u64, APPENDERS + 1);
}

#[test]
fn a_record_that_need_not_be_synced_is_not() {
    let place = Place::new();
    let journal = open_with(&place.path(), Steps::default()).unwrap();
    intend(&journal, 1).unwrap();
    drop(journal);
    let syncs = Arc::new(AtomicUsize::new(0));
    let counted = syncs.clone();
    let count = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    let journal = open_with(&place.path(), at(JournalStep::BeforeSync, count)).unwrap();
    let attempt = Attempt { worker: "w".into(), epoch: Epoch(1), key: key(1), owner: "owner".into() };
    journal.append(Record::Stopping { attempt }, Until::Written).unwrap();
    let read = read_journal(place.path()).unwrap();
    assert_eq!(read.instances[0].stage, super::super::LeftoverStage::Stopping);
    assert_eq!(syncs.load(Ordering::SeqCst), 1, "the one of the open");
    intend(&journal, 2).unwrap();
    assert_eq!(syncs.load(Ordering::SeqCst), 2);
}

#[test]
fn j6_when_the_disk_is_full_appends_fail_and_go_on_when_there_is_room_again() {
    let steps = [JournalStep::BeforeWrite, JournalStep::AfterWrite, JournalStep::BeforeSync, JournalStep::AfterSync];
    for failing in steps {
        let place = Place::new();
        let full = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (is_full, path) = (full.clone(), place.path());
        let steps = at(failing, move || {
            if !is_full.load(Ordering::SeqCst) {
                return Ok(());
            }
            // As much as fitted on the disk.
            OpenOptions::new().append(true).open(&path).unwrap().write_all(b"intended w 9 to").unwrap();
            Err(ErrorKind::StorageFull.into())
        });
        let journal = open_with(&place.path(), steps).unwrap();
        intend(&journal, 1).unwrap();
        full.store(true, Ordering::SeqCst);
        for number in 2..=3 {
            let error = intend(&journal, number).unwrap_err();
            assert!(error.starts_with("cannot write the journal ") && error.contains("no storage space"), "{error}");
            let told = journal.append(Record::Gone { key: key(number) }, Until::Synced);
            assert!(told.is_err(), "nor can it be told that nothing came of it");
        }
        assert_eq!(open_epochs(&journal), [1]);
        full.store(false, Ordering::SeqCst);
        intend(&journal, 4).unwrap();
        drop(journal);
        let journal = open(&place.path());
        assert_eq!((open_epochs(&journal), journal.damage()), (vec![1, 4], None), "{failing:?}");
        assert_eq!(journal.last_epoch("w"), Epoch(4));
    }
}

#[test]
fn j6_a_failure_just_after_the_new_file_is_in_place_loses_neither_it_nor_its_lock() {
    let place = Place::new();
    let failing = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_failing = failing.clone();
    let failing_steps =
        Steps::told_to(move |step| match is_failing.load(Ordering::SeqCst) && step == JournalStep::AfterReplace {
            true => Err(ErrorKind::StorageFull.into()),
            false => Ok(()),
        });
    fs::write(place.path(), "latent-worker-jour").unwrap();
    failing.store(true, Ordering::SeqCst);
    assert!(open_with(&place.path(), failing_steps.clone()).is_err());
    failing.store(false, Ordering::SeqCst);
    let journal = open_with(&place.path(), failing_steps).unwrap();
    assert_eq!(journal.damage(), None, "the one before has replaced it");
    // A journal that has become long is replaced, and the replacement fails too late.
    journal.storage.lock().long = 0;
    failing.store(true, Ordering::SeqCst);
    assert!(intend(&journal, 1).is_err());
    assert!(matches!(open_with(&place.path(), Steps::default()), Err(JournalError::InUse { .. })));
    failing.store(false, Ordering::SeqCst);
    intend(&journal, 2).unwrap();
    drop(journal);
    assert_eq!(open_epochs(&open(&place.path())), [1, 2]);
}

#[test]
fn j6_a_damaged_journal_in_a_directory_that_cannot_be_written_to_is_an_error_at_the_open() {
    let place = Place::new();
    fs::write(place.path(), "latent-worker-jour").unwrap();
    let steps = at(JournalStep::BeforeReplace, || Err(ErrorKind::PermissionDenied.into()));
    let error = open_with(&place.path(), steps).map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("cannot write to the journal ") && error.contains("permission denied"), "{error}");
    open(&place.path());
}

#[test]
fn a_long_journal_becomes_short_and_a_failure_of_that_does_no_harm() {
    let place = Place::new();
    let may_replace = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let allowed = may_replace.clone();
    let steps = at(JournalStep::BeforeReplace, move || match allowed.load(Ordering::SeqCst) {
        true => Ok(()),
        false => Err(ErrorKind::StorageFull.into()),
    });
    let journal = open_with(&place.path(), steps).unwrap();
    intend(&journal, 1).unwrap();
    may_replace.store(false, Ordering::SeqCst);
    let length = || fs::metadata(place.path()).unwrap().len();
    let reason: Arc<str> = "x".repeat(64 << 10).into();
    let fail = |tries| {
        let failed = Record::Failed { key: key(1), tries, reason: reason.clone() };
        journal.append(failed, Until::Written).unwrap();
    };
    (1..=24).for_each(fail);
    assert!(length() > SHORT + 7 * (64 << 10), "it could not be replaced: {}", length());
    may_replace.store(true, Ordering::SeqCst);
    (25..=50).for_each(fail);
    assert!(length() < SHORT + 2 * (64 << 10), "{}", length());
    assert!(matches!(open_with(&place.path(), Steps::default()), Err(JournalError::InUse { .. })));
    drop(journal);
    let journal = open(&place.path());
    assert_eq!(journal.open_attempts()[0].tries, 50);
    assert_eq!(place.files().first().map(String::as_str), Some("journal"));
}

/// The file may be the journal of a master of that name, or the target of a link that belongs to another user.
#[cfg(unix)]
#[test]
fn j6_a_replacement_touches_no_file_that_belongs_to_somebody_else() {
    let place = Place::new();
    let new = with_suffix(&place.path(), NEW);
    let rewrite = |journal: &Journal, number| {
        journal.storage.lock().long = 0;
        intend(journal, number).unwrap();
    };
    let journal = open(&place.path());
    let neighbour = open(&new);
    intend(&neighbour, 1).unwrap();
    let before = fs::read(&new).unwrap();
    rewrite(&journal, 2);
    assert_eq!(fs::read(&new).unwrap(), before, "it is in use");
    drop(neighbour);
    fs::remove_file(&new).unwrap();

    let precious = place.0.join("precious");
    fs::write(&precious, "precious").unwrap();
    std::os::unix::fs::symlink("precious", &new).unwrap();
    rewrite(&journal, 3);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert!(!fs::symlink_metadata(place.path()).unwrap().is_symlink());
    fs::remove_file(&new).unwrap();

    fs::write(&new, "what a crash has left").unwrap();
    rewrite(&journal, 4);
    assert!(!new.exists());
    drop(journal);
    assert_eq!(open_epochs(&open(&place.path())), [2, 3, 4]);
}

#[cfg(unix)]
#[test]
fn j1_a_journal_that_was_moved_or_removed_is_an_error_until_it_is_back() {
    let place = Place::new();
    let journal = open(&place.path());
    let moved = place.0.join("moved");
    fs::rename(place.path(), &moved).unwrap();
    for number in 1..=2 {
        let error = intend(&journal, number).unwrap_err();
        assert!(error.contains("moved or removed"), "{error}");
    }
    // Another master has begun a journal of its own there.
    let other = open(&place.path());
    let before = fs::read(place.path()).unwrap();
    assert!(intend(&journal, 3).is_err());
    assert_eq!(fs::read(place.path()).unwrap(), before);
    drop(other);
    fs::rename(&moved, place.path()).unwrap();
    intend(&journal, 4).unwrap();
    drop(journal);
    assert_eq!(open_epochs(&open(&place.path())), [1, 2, 3, 4]);
}

#[cfg(unix)]
#[test]
fn j4_a_journal_is_made_for_its_user_alone_and_what_is_set_aside_is_as_private_as_it_is() {
    use std::os::unix::fs::PermissionsExt;

    let place = Place::new();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    drop(open(&place.path()));
    assert_eq!(mode(&place.path()), 0o600);
    for (number, wanted) in [(1, 0o600), (2, 0o640)] {
        let torn = format!("torn {number}");
        OpenOptions::new().append(true).open(place.path()).unwrap().write_all(torn.as_bytes()).unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(wanted)).unwrap();
        drop(open(&place.path()));
        assert_eq!(mode(&with_suffix(&place.path(), &format!(".damaged-{number}"))), wanted);
        assert_eq!(mode(&place.path()), wanted);
    }
}

#[cfg(unix)]
#[test]
#[ignore = "needs root"]
fn what_root_has_replaced_still_belongs_to_whom_it_did() {
    use std::os::unix::fs::{MetadataExt, chown};

    const SOMEBODY: u32 = 65_534;
    let place = Place::new();
    drop(open(&place.path()));
    OpenOptions::new().append(true).open(place.path()).unwrap().write_all(b"torn").unwrap();
    chown(place.path(), Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    drop(open(&place.path()));
    for file in [place.path(), with_suffix(&place.path(), ".damaged-1")] {
        let file = fs::metadata(file).unwrap();
        assert_eq!((file.uid(), file.gid()), (SOMEBODY, SOMEBODY));
    }
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link_and_permissions_stay_what_they_are() {
    use std::os::unix::fs::PermissionsExt;

    let place = Place::new();
    let real = place.0.join("real");
    std::os::unix::fs::symlink("real", place.path()).unwrap();
    fs::write(&real, "").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    intend(&open(&place.path()), 1).unwrap();
    assert!(fs::symlink_metadata(place.path()).unwrap().is_symlink());
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(open_epochs(&open(&real)), [1]);
}

/// Opens the journal again, as after a `kill -9`: the lock is gone, and nothing more was written.
fn opened_again(path: &Path, journal: Journal) -> Journal {
    drop(journal);
    open(path)
}

#[test]
fn j6_a_journal_that_is_emptied_or_cut_in_use_is_noticed_and_nothing_is_forgotten() {
    let place = Place::new();
    let whole = open(&place.path());
    (1..=4).for_each(|number| intend(&whole, number).unwrap());
    gone(&whole, 2);
    drop(whole);
    let length = fs::metadata(place.path()).unwrap().len();
    for left in [0, 1, length / 2, length - 1] {
        for replaced_before in [false, true] {
            let place = Place::new();
            let steps = if replaced_before { Steps { short: 1, ..Steps::default() } } else { Steps::default() };
            let journal = open_with(&place.path(), steps).unwrap();
            (1..=4).for_each(|number| intend(&journal, number).unwrap());
            gone(&journal, 2);
            assert_eq!(journal.take_trouble(), None);
            File::options().write(true).open(place.path()).unwrap().set_len(left).unwrap();
            intend(&journal, 5).unwrap();
            let trouble = journal.take_trouble().expect("told").to_string();
            assert!(trouble.contains(&format!("has {left} bytes instead of")), "{trouble}");
            assert_eq!(journal.take_trouble(), None, "told once");
            intend(&journal, 6).unwrap();
            assert_eq!(journal.take_trouble(), None, "it is whole again");
            let again = opened_again(&place.path(), journal);
            assert_eq!((open_epochs(&again), again.damage()), (vec![1, 3, 4, 5, 6], None), "{left} bytes were left");
        }
    }
}

#[test]
fn j6_what_another_program_adds_is_noticed_and_does_not_stay() {
    let place = Place::new();
    let journal = open(&place.path());
    intend(&journal, 1).unwrap();
    let mut other = File::options().append(true).open(place.path()).unwrap();
    other.write_all(b"somebody else's line\n").unwrap();
    gone(&journal, 1);
    assert!(journal.take_trouble().is_some());
    let again = opened_again(&place.path(), journal);
    assert_eq!((open_epochs(&again), again.damage()), (vec![], None));
}

#[test]
fn j6_a_journal_that_was_emptied_at_rest_is_reported_and_a_new_one_is_not() {
    let place = Place::new();
    let journal = open(&place.path());
    assert_eq!(journal.damage(), None);
    intend(&journal, 1).unwrap();
    drop(journal);
    fs::write(place.path(), "").unwrap();
    let journal = open(&place.path());
    assert!(journal.damage().is_some_and(|damage| damage.contains("is empty")), "{:?}", journal.damage());
    assert_eq!(opened_again(&place.path(), journal).damage(), None);
}

/// Whatever is cut out of a journal that is not in use: if an instance is forgotten, damage is reported.
#[test]
fn j6_no_instance_is_forgotten_in_silence() {
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..300 {
        let place = Place::new();
        let journal = open(&place.path());
        let number = random.u64(2..9);
        (1..=number).for_each(|number| intend(&journal, number).unwrap());
        drop(journal);
        let mut bytes = fs::read(place.path()).unwrap();
        let from = random.usize(..bytes.len());
        let to = random.usize(from..=bytes.len());
        match random.u8(..3) {
            0 => _ = bytes.drain(from..to),
            1 => bytes[from..to].fill(0),
            _ => bytes[from..to].fill(b'\n'),
        }
        // Whole lines that are cut off at the end cannot be noticed: the journal looks as if it had never been longer.
        let may_be_silent = from >= bytes.len();
        fs::write(place.path(), &bytes).unwrap();
        let Ok(again) = open_with(&place.path(), Steps::default()) else { continue };
        let known = open_epochs(&again).len() as u64;
        let told = again.damage().is_some();
        assert!(known == number || told || may_be_silent, "round {round}: {known} of {number}");
    }
}

#[test]
fn j6_a_journal_of_version_1_is_read_and_rewritten() {
    let place = Place::new();
    let checksum = |body: &str| format!("{body} {:08x}\n", super::super::record::crc32(body.as_bytes()));
    let lines = ["latent-worker-journal 1 owner", "opened 1 2", "intended w 3 abc owner 7", "known w 3 abc owner id"];
    fs::write(place.path(), lines.map(checksum).concat()).unwrap();
    let journal = open(&place.path());
    assert_eq!((open_epochs(&journal), journal.damage()), (vec![3], None));
    let text = fs::read_to_string(place.path()).unwrap();
    assert!(text.starts_with("latent-worker-journal 2 owner 1 "), "{text}");
    assert_eq!(open_epochs(&opened_again(&place.path(), journal)), [3]);
}
