use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::mkdirat;

use super::*;

/// The stack of a thread that removes: recursion over the tree would overflow it.
const STACK: usize = 256 << 10;

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("latent-worker-removal-{name}-{}", std::process::id()));
        remove(&path).unwrap();
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.join(below)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove(&self.0).unwrap();
    }
}

fn remove(path: &Path) -> Result<(), RemovalError> {
    remove_tree(path, &mut || true)
}

/// Nests directories, with a file in each, too deep for any path.
fn nest(top: &Path, levels: usize) {
    fs::create_dir(top).unwrap();
    let mut directory = fs::File::open(top).map(OwnedFd::from).unwrap();
    for _ in 0..levels {
        mkdirat(&directory, c"d", Mode::RWXU).unwrap();
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        drop(openat(&directory, c"file", flags, Mode::RUSR).unwrap());
        directory = openat(&directory, c"d", FLAGS, Mode::empty()).unwrap();
    }
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

#[test]
fn d2_a_tree_of_100_000_levels_is_removed_on_a_small_stack_with_few_descriptors() {
    let place = Place::new("deep");
    let top = place.path("top");
    nest(&top, 100_000);
    let removing = std::thread::Builder::new().stack_size(STACK).spawn({
        let top = top.clone();
        move || {
            let before = open_descriptors();
            let mut most = 0;
            let mut asked = 0_u64;
            let mut look = || {
                asked += 1;
                if asked.is_multiple_of(1000) {
                    most = most.max(open_descriptors().saturating_sub(before));
                }
                true
            };
            remove_tree(&top, &mut look).unwrap();
            // Other tests run beside this one.
            assert!(most < 200, "{most} descriptors");
        }
    });
    removing.unwrap().join().unwrap();
    assert!(!top.exists());
}

#[test]
fn d2_a_removal_that_was_interrupted_goes_on_where_it_was() {
    let place = Place::new("interrupted");
    let top = place.path("top");
    nest(&top, 500);
    let mut rounds = 0;
    loop {
        rounds += 1;
        let mut left = 100;
        let mut some = || {
            left -= 1;
            left > 0
        };
        match remove_tree(&top, &mut some) {
            Ok(()) => break,
            Err(error) => {
                assert_eq!(error.source.kind(), ErrorKind::Interrupted);
                assert!(error.progress > 0);
            }
        }
    }
    assert!(rounds > 3, "{rounds}");
    assert!(!top.exists());
}

/// Whether this user may do anything.
fn is_super_user() -> bool {
    rustix::process::geteuid().is_root()
}

/// Permissions mean nothing for a super-user: runs the tests about them as somebody else.
#[test]
fn d2_an_ordinary_user_removes_what_it_has_locked() {
    if !is_super_user() {
        return; // the tests themselves show it
    }
    let place = Place::new("ordinary");
    fs::set_permissions(&place.0, fs::Permissions::from_mode(0o777)).unwrap();
    let program = place.path("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let nobody = 65534;
    let mut tests = std::process::Command::new(&program);
    tests
        .args(["removal::tests::d2_directories", "removal::tests::d2_random"])
        .current_dir("/")
        .env("TMPDIR", &place.0);
    let output = std::os::unix::process::CommandExt::uid(&mut tests, nobody).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("2 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn d2_directories_that_nobody_may_read_or_change_are_removed() {
    let place = Place::new("locked");
    let top = place.path("top");
    let mut directory = top.clone();
    let mut all = vec![top.clone()];
    for mode in [0o555, 0o000, 0o400, 0o100, 0o200, 0o555] {
        directory = directory.join(format!("{mode:o}"));
        all.push(directory.clone());
        all.push(directory.join("empty"));
    }
    for path in &all {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("file"), "").unwrap();
    }
    for path in all.iter().rev() {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap();
        let mode = u32::from_str_radix(name, 8).unwrap_or(0o555);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    remove(&top).unwrap();
    assert!(!top.exists());
}

#[test]
fn j4_links_are_removed_and_what_they_lead_to_is_not() {
    let place = Place::new("links");
    fs::create_dir_all(place.path("outside/inner")).unwrap();
    fs::write(place.path("outside/inner/kept"), "").unwrap();
    fs::create_dir_all(place.path("top/a/b")).unwrap();
    symlink(place.path("outside"), place.path("top/link")).unwrap();
    symlink("../../../outside", place.path("top/a/b/link")).unwrap();
    symlink("nowhere", place.path("top/a/broken")).unwrap();
    symlink("outside", place.path("top-link")).unwrap();
    remove(&place.path("top")).unwrap();
    remove(&place.path("top-link")).unwrap();
    assert!(!place.path("top").exists() && !place.path("top-link").is_symlink());
    assert!(place.path("outside/inner/kept").exists());
}

#[test]
fn d3_what_cannot_be_there_counts_as_removed_and_a_file_is_refused() {
    let place = Place::new("nothing");
    fs::write(place.path("file"), "").unwrap();
    for gone in ["no", "no/deeper", "file/below", "file/below/deeper"] {
        remove(&place.path(gone)).unwrap();
    }
    let refused = remove(&place.path("file")).unwrap_err();
    assert_eq!(refused.source.kind(), ErrorKind::NotADirectory);
    assert!(refused.to_string().starts_with(&place.path("file").display().to_string()), "{refused}");
    assert!(place.path("file").exists());
    assert_eq!(remove(Path::new("..")).unwrap_err().source.kind(), ErrorKind::InvalidInput);
}

#[test]
fn d2_wide_directories_take_several_batches() {
    let place = Place::new("wide");
    for name in 0..BATCH * 3 {
        fs::create_dir_all(place.path(&format!("top/{name}/sub"))).unwrap();
        fs::write(place.path(&format!("top/{name}/sub/file")), "").unwrap();
    }
    remove(&place.path("top")).unwrap();
    assert!(!place.path("top").exists());
}

/// Random trees, also with names that are those of a removal.
#[test]
fn d2_random_trees_are_removed_and_the_rest_is_left() {
    let place = Place::new("random");
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        fs::create_dir_all(place.path("outside")).unwrap();
        fs::write(place.path("outside/kept"), "").unwrap();
        let mut directories = vec![place.path("top")];
        fs::create_dir(&directories[0]).unwrap();
        for number in 0..random.usize(1..200) {
            let directory = random.choice(&directories).unwrap().clone();
            let path = match random.u8(0..6) {
                0 => directory.join(format!("{MOVED}-{}-{number}", std::process::id())),
                _ => directory.join(number.to_string()),
            };
            match random.u8(0..4) {
                0 => fs::write(path, "").unwrap(),
                1 => symlink(place.path("outside"), path).unwrap(),
                _ => {
                    fs::create_dir(&path).unwrap();
                    directories.push(path);
                }
            }
        }
        for directory in directories.iter().rev() {
            let mode = *random.choice(&[0o700, 0o555, 0o000, 0o311]).unwrap();
            fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
        }
        remove(&place.path("top")).unwrap();
        assert!(!place.path("top").exists(), "seed {seed}");
        assert!(place.path("outside/kept").exists(), "seed {seed}");
    }
}

/// Somebody changes the tree while it is removed, and puts links in the place of directories.
#[test]
fn j4_a_tree_that_changes_meanwhile_is_removed_and_nothing_outside_is_touched() {
    let place = Place::new("changing");
    fs::create_dir_all(place.path("outside/inner/deeper")).unwrap();
    fs::write(place.path("outside/inner/kept"), "").unwrap();
    fs::write(place.path("outside/kept"), "").unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(7);
            while !over.load(Ordering::Relaxed) {
                let name = |random: &mut fastrand::Rng| format!("top/{}", random.u8(0..4));
                let (one, other) = (place.path(&name(&mut random)), place.path(&name(&mut random)));
                // Whatever fails is as good as not done.
                let _ = match random.u8(0..6) {
                    0 => fs::create_dir_all(one.join("a/b/c")),
                    1 => fs::write(one, ""),
                    2 => symlink(place.path("outside"), one),
                    3 => fs::rename(one, other),
                    4 => fs::rename(one.join("a"), other),
                    _ => fs::remove_file(one),
                };
            }
        });
        for _ in 0..30 {
            let _ = fs::create_dir(place.path("top"));
            match remove(&place.path("top")) {
                Ok(()) => {}
                Err(error) => assert_eq!(error.source.kind(), ErrorKind::DirectoryNotEmpty, "{error}"),
            }
        }
        over.store(true, Ordering::Relaxed);
        changing.join().unwrap();
    });
    remove(&place.path("top")).unwrap();
    assert!(place.path("outside/inner/kept").exists() && place.path("outside/kept").exists());
    assert!(place.path("outside/inner/deeper").is_dir());
}
