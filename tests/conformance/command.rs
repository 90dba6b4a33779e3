//! The driver of programs of the user. The provider of these is a directory with a file for each instance; another one
//! has a file for each fault that is in force.

use std::fs;
use std::path::PathBuf;

use latent_worker::testing::conformance::{Fault, Injection, Subject};
use latent_worker::{Build, CommandLatentWorker};

use crate::place::{Place, expect_all_but};

/// `meets FAULT` is true when it is in force, and counts.
const MEETS: &str = "meets() { [ -e faults/$1 ] && echo >>faults/$1; }\n";

const START: &str = "
[ \"$LATENT_WORKER_PROPERTY_image\" != none ] || { echo no such image >&2; exit 65; }
meets down && { echo nobody answers >&2; exit 1; }
touch instances/$LATENT_WORKER_KEY
meets lost && { echo the connection was lost >&2; exit 1; }
while meets slow; do sleep 0.05; done
[ \"$LATENT_WORKER_PROPERTY_image\" != fails ] || { echo the disk is full >&2; exit 1; }
meets vanishes && rm instances/$LATENT_WORKER_KEY
echo $LATENT_WORKER_KEY
";

/// By the key: a start that failed may have made something without saying so.
const STOP: &str = "
[ \"$LATENT_WORKER_PROPERTY_image$LATENT_WORKER_FAST\" != stubborn0 ] || exec sleep 1000
meets down && { echo nobody answers >&2; exit 1; }
rm -f instances/$LATENT_WORKER_KEY
meets lost_in_stop && { echo the connection was lost >&2; exit 1; }
exit 0
";

const CHECK: &str = "[ -e instances/$LATENT_WORKER_KEY ] || { echo it is gone >&2; exit 1; }";

struct FaultFile(PathBuf);

impl Drop for FaultFile {
    fn drop(&mut self) {
        _ = fs::remove_file(&self.0);
    }
}

fn run(change: impl Fn(CommandLatentWorker) -> CommandLatentWorker + Send + Sync + 'static) {
    let place = Place::new();
    let (instances, faults) = (place.directory("instances"), place.directory("faults"));
    let make = {
        let path = place.path().display().to_string();
        let sh = move |lines: &str| {
            ["/bin/sh".to_owned(), "-c".to_owned(), format!("cd '{path}' || exit 99\n{MEETS}{lines}")]
        };
        move || {
            let driver = CommandLatentWorker::new(sh(START), sh(STOP)).restart_hurried_stop();
            change(driver.check(sh(CHECK)).compatible_by(["image"]))
        }
    };
    let inject = move |name: &str| {
        let path = faults.join(name);
        fs::write(&path, "").unwrap();
        // A line for each time.
        let counted = path.clone();
        Injection::new(FaultFile(path)).counted(move || fs::metadata(&counted).map_or(0, |file| file.len()))
    };
    let of = |image: &str| Build::new(image).with_property("image", image);
    let (listed, destroyed) = (instances.clone(), instances);
    let mut subject = Subject::new("command", make, move || Place::names(&listed))
        .destroy(move |name| _ = fs::remove_file(destroyed.join(name)))
        .failing(of("fails"))
        .impossible(of("none"))
        .incompatible(of("other"))
        .stubborn(of("stubborn"))
        .debug_driver(|driver| format!("{driver:?}"))
        .debug_instance(|instance| format!("{instance:?}"));
    for (fault, name) in [
        (Fault::ErrorAfterCreate, "lost"),
        (Fault::ErrorAfterRemove, "lost_in_stop"),
        (Fault::SlowStart, "slow"),
        (Fault::Unavailable, "down"),
        (Fault::Vanishes, "vanishes"),
    ] {
        let inject = inject.clone();
        subject = subject.fault(fault, move || inject(name));
    }
    let report = subject.run();
    println!("{report}");
    expect_all_but(
        &report,
        &[
            // There is no exit code for it.
            "d6_throttled_start",
            "d6_throttled_stop",
            // These programs list nothing.
            "d6_lagging_list",
            "d6_lagging_reclaim",
        ],
    );
}

#[test]
fn d6_command() {
    run(|driver| driver);
}

#[test]
fn d6_command_with_its_secret_in_a_file() {
    run(CommandLatentWorker::secret_in_file);
}
