//! Trees as hostile builds leave them. Where the permissions matter, the test runs as a user that has to obey them.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{mkdirat, open};

use super::*;

const ALWAYS: GoOn<'static> = &|| Ok(());
/// As small as a thread of a user of this library may be.
const SMALL_STACK: usize = 256 << 10;

/// So many directories are above a place and belong to it: more than the trees have levels whose way up is attacked. A
/// walk that goes up too far stays among them.
const MARGIN: usize = 16;

/// A directory for one test: a tree, and a neighbour that must stay as it is.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lw-removal-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self::at(std::env::temp_dir().join(name))
    }

    fn at(path: PathBuf) -> Self {
        let path = path.join("margin/".repeat(MARGIN));
        fs::create_dir_all(path.join("outside/deep")).unwrap();
        fs::write(path.join("outside/deep/kept"), "").unwrap();
        fs::write(path.join("outside/kept"), "").unwrap();
        fs::create_dir(path.join("tree")).unwrap();
        Self(path)
    }

    fn tree(&self) -> PathBuf {
        self.0.join("tree")
    }

    fn assert_outside_is_untouched(&self, about: &str) {
        for name in ["outside/kept", "outside/deep/kept"] {
            assert!(self.0.join(name).exists(), "{about}: {name} was removed");
        }
        let mode = fs::metadata(self.0.join("outside")).unwrap().mode() & 0o777;
        assert!(mode & 0o700 == 0o700 || mode == 0o500, "{about}: {mode:o}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::set_permissions(self.0.join("outside"), Permissions::from_mode(0o700));
        // By other code than that which is tested here.
        let top = self.0.ancestors().nth(MARGIN).unwrap();
        let _ = std::process::Command::new("rm").arg("-rf").arg(top).status();
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Runs a test on a thread whose user is refused what a mode forbids. No other thread is changed.
fn as_ordinary_user(test: impl FnOnce() + Send + 'static) {
    let body = move || {
        #[cfg(target_os = "linux")]
        if rustix::process::geteuid().is_root() {
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
        }
        test();
    };
    if let Err(panic) = thread::Builder::new().spawn(body).unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

/// Directories within each other, each with a file.
fn nest(tree: &Path, levels: usize) {
    let mut current = open(tree, DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..levels {
        mkdirat(&current, c"d", Mode::RWXU).unwrap();
        current = openat(&current, c"d", DIRECTORY, Mode::empty()).unwrap();
    }
    openat(&current, c"file", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
}

#[test]
fn a_hundred_thousand_levels_fit_on_a_small_stack() {
    // In memory, if that is possible: some disks need a millisecond for each directory.
    let memory = PathBuf::from("/dev/shm");
    let place = match memory.is_dir() {
        true => Place::at(memory.join(format!("lw-removal-{}", std::process::id()))),
        false => Place::new(),
    };
    let tree = place.tree();
    nest(&tree, 100_000);
    let removal = move || remove_directory(&tree, ALWAYS);
    thread::Builder::new().stack_size(SMALL_STACK).spawn(removal).unwrap().join().unwrap().unwrap();
    assert!(!place.tree().exists());
}

#[test]
fn a_level_may_have_more_subdirectories_than_are_remembered() {
    let place = Place::new();
    for number in 0..3 * BATCH {
        fs::create_dir_all(place.tree().join(format!("{number}/{}", "n".repeat(255)))).unwrap();
    }
    remove_directory(&place.tree(), ALWAYS).unwrap();
    assert!(!place.tree().exists());
}

/// Grows a random tree of directories, files, and links within it and out of it.
fn grow(random: &mut fastrand::Rng, place: &Place) {
    let mut directories = vec![place.tree()];
    for number in 0..random.usize(..60) {
        let path = random.choice(&directories).unwrap().join(number.to_string());
        match random.u8(..6) {
            0 => fs::write(path, "x").unwrap(),
            1 => symlink(place.0.join("outside"), path).unwrap(),
            2 => symlink("..", path).unwrap(),
            _ => {
                fs::create_dir(&path).unwrap();
                directories.push(path);
            }
        }
    }
    // From below, so that each can still be reached.
    for directory in directories.iter().rev() {
        let mode = *random.choice(&[0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o555, 0o600, 0o700]).unwrap();
        set_mode(directory, mode);
    }
}

#[test]
fn random_trees_with_any_permissions_are_removed_and_nothing_behind_links() {
    as_ordinary_user(|| {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..200 {
            let place = Place::new();
            grow(&mut random, &place);
            set_mode(&place.0.join("outside"), 0o500);
            let about = format!("round {round}, seed {seed}");
            remove_directory(&place.tree(), ALWAYS).unwrap_or_else(|error| panic!("{about}: {error}"));
            assert!(!place.tree().exists(), "{about}");
            place.assert_outside_is_untouched(&about);
        }
    });
}

/// Does something to a tree before each of the steps of its removal, one after the other.
fn at_each_step(change: impl Fn(&Place) + Send + Sync + 'static) {
    // Another user, so that even a removal that goes astray cannot touch what belongs to this one.
    as_ordinary_user(move || each_step(&change));
}

fn each_step(change: &dyn Fn(&Place)) {
    for step in 0.. {
        let place = Place::new();
        three_levels(&place);
        let now = Cell::new(0);
        let result = remove_directory(&place.tree(), &|| {
            if now.replace(now.get() + 1) == step {
                change(&place);
            }
            Ok(())
        });
        let about = format!("changed before step {step}");
        result.unwrap_or_else(|error| panic!("{about}: {error}"));
        assert!(!place.tree().exists(), "{about}");
        place.assert_outside_is_untouched(&about);
        if now.get() <= step {
            assert!(step > 10, "only {step} steps were tried");
            break;
        }
    }
}

fn three_levels(place: &Place) {
    for name in ["a/b/c", "a/b/d", "a/e", "f"] {
        fs::create_dir_all(place.tree().join(name)).unwrap();
        fs::write(place.tree().join(name).join("file"), "").unwrap();
    }
}

#[test]
fn a_link_that_takes_the_place_of_a_directory_at_any_moment_is_not_followed() {
    at_each_step(|place| {
        for (number, name) in ["a/b/c", "a/b", "a", "f"].iter().enumerate() {
            let path = place.tree().join(name);
            if fs::rename(&path, place.tree().join(format!("moved-{number}"))).is_ok() {
                symlink(place.0.join("outside"), path).unwrap();
            }
        }
    });
}

#[test]
fn a_directory_that_is_moved_away_at_any_moment_takes_the_walk_nowhere_else() {
    for name in ["a/b/c", "a/b", "a"] {
        at_each_step(move |place| _ = fs::rename(place.tree().join(name), place.0.join("outside/moved")));
    }
}

#[test]
fn a_directory_that_is_filled_again_or_locked_at_any_moment_is_removed() {
    at_each_step(|place| {
        for name in ["a/b/c", "a/b", "a", "f", "new"] {
            let path = place.tree().join(name);
            let _ = fs::create_dir(&path);
            let _ = fs::write(path.join("more"), "");
        }
        for name in ["a/b/c", "a/b", "a", ""] {
            let _ = fs::set_permissions(place.tree().join(name), Permissions::from_mode(0o000));
        }
    });
}

#[test]
fn a_file_that_takes_the_place_of_a_directory_at_any_moment_is_removed() {
    at_each_step(|place| {
        let path = place.tree().join("a/b");
        if fs::rename(&path, place.tree().join("moved")).is_ok() {
            fs::write(path, "").unwrap();
        }
    });
}

#[test]
fn a_process_that_changes_everything_meanwhile_delays_the_removal_and_leads_it_nowhere() {
    as_ordinary_user(removal_with_a_mutator);
}

fn removal_with_a_mutator() {
    let place = Place::new();
    let (tree, outside) = (place.tree(), place.0.join("outside"));
    let end = AtomicBool::new(false);
    let seed = fastrand::u64(..);
    thread::scope(|scope| {
        let mutator = scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut name = || tree.join(["", "a", "a/b", "a/b/c", "d", "d/e"][random.usize(..6)]);
            for _ in 0..20_000 {
                let (one, other) = (name(), name());
                let _ = fs::create_dir_all(one.join("x"));
                let _ = fs::rename(&one, &other);
                let _ = symlink(&outside, one.join("link"));
                let _ = symlink(&outside, &other);
                if end.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        // It ends in one way or the other, as long as the other process goes on.
        for _ in 0..20 {
            let _ = remove_directory(&tree, ALWAYS);
        }
        end.store(true, Ordering::Relaxed);
        mutator.join().unwrap();
    });
    remove_directory(&tree, ALWAYS).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    place.assert_outside_is_untouched(&format!("seed {seed}"));
}

#[test]
fn the_caller_can_end_it_between_any_two_entries() {
    let place = Place::new();
    nest(&place.tree(), 20);
    let left = Cell::new(25);
    let result = remove_directory(&place.tree(), &|| {
        left.set(left.get() - 1);
        if left.get() == 0 { Err(io::Error::other("enough")) } else { Ok(()) }
    });
    assert_eq!((result.unwrap_err().to_string(), left.get()), ("enough".to_owned(), 0));
    assert!(place.tree().exists());
    // The next one continues.
    remove_directory(&place.tree(), ALWAYS).unwrap();
}

#[test]
fn what_cannot_be_removed_is_named_with_the_reason() {
    let place = Place::new();
    let parent = place.tree();
    fs::create_dir(parent.join("kept")).unwrap();
    set_mode(&parent, 0o555);
    let (path, own) = (parent.join("kept"), parent.clone());
    as_ordinary_user(move || {
        // Neither the directory above nor one of another user is made writable.
        let error = remove_directory(&path, ALWAYS).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().starts_with(&format!("{path:?}: ")), "{error}");
        assert!(own.exists());
    });
    let walk = |levels: usize| {
        let level = |_| Level { name: c"d".to_owned(), identity: (0, 0), full: Vec::new() };
        let above = File::open("/").unwrap();
        let levels = (0..levels).map(level).collect();
        let walk = Walk { path: Path::new("/tree"), above: above.as_fd(), go_on: ALWAYS, levels, removed: false };
        let Halt::Failed(error) = walk.failed(c"\x1b", &Errno::PERM.into()) else { unreachable!() };
        error.to_string().split_once(": ").unwrap().0.to_owned()
    };
    assert_eq!(walk(0), "\"/tree\"");
    assert_eq!(walk(3), "\"/tree/d/d/\\u{1b}\"");
    assert_eq!(walk(100_000), "\"/tree/d/d/d/d\" (99992 levels) \"d/d/d/\\u{1b}\"");
}

#[test]
fn a_mount_point_is_an_error_that_says_so() {
    // Every Linux has this one, and nobody may remove it.
    if cfg!(target_os = "linux") {
        let place = Place::new();
        let (above, name) = (File::open("/").unwrap(), c"proc");
        let path = place.tree();
        let mut walk = Walk { path: &path, above: above.as_fd(), go_on: ALWAYS, levels: Vec::new(), removed: false };
        let Err(Halt::Failed(error)) = walk.remove_entry(above.as_fd(), name, FileType::Directory) else {
            panic!("it was removed");
        };
        assert!(error.to_string().contains("mount point"), "{error}");
    }
}

/// The contents of a mounted file system must not be removed.
#[test]
#[cfg(target_os = "linux")]
#[ignore = "needs root"]
fn j4_what_is_mounted_in_a_tree_is_not_touched() {
    let place = Place::new();
    let mounted = place.tree().join("deep/mounted");
    fs::create_dir_all(&mounted).unwrap();
    let run = |program: &str, arguments: &[&Path]| {
        let status = std::process::Command::new(program).args(arguments).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    };
    run("mount", &[Path::new("--bind"), &place.0.join("outside"), &mounted]);
    let error = remove_directory(&place.tree(), ALWAYS).unwrap_err();
    run("umount", &[&mounted]);
    assert!(error.to_string().contains("mount point"), "{error}");
    place.assert_outside_is_untouched("a mount");
    remove_directory(&place.tree(), ALWAYS).unwrap();
}

#[test]
fn only_what_is_not_there_counts_as_removed() {
    let place = Place::new();
    let file = place.0.join("file");
    fs::write(&file, "").unwrap();
    let missing = place.tree().join("missing/deeper");
    remove_directory(&missing, ALWAYS).unwrap();
    remove_anything(&missing, ALWAYS).unwrap();
    for path in [&file, &file.join("below")] {
        assert_eq!(remove_directory(path, ALWAYS).unwrap_err().kind(), ErrorKind::NotADirectory);
    }
    remove_anything(&file.join("below"), ALWAYS).unwrap();
    assert!(file.exists());
    remove_anything(&file, ALWAYS).unwrap();
    assert!(!file.exists());
    symlink("outside", &file).unwrap();
    remove_directory(&file, ALWAYS).unwrap();
    place.assert_outside_is_untouched("a link at the top");
    for path in ["/", "..", "a/.."] {
        assert_eq!(remove_anything(Path::new(path), ALWAYS).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
