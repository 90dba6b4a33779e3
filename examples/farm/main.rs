//! A farm of latent workers: a file of builds goes in; workers come up, run them and go away again.
//!
//! `cargo run --release --example farm -- --help` tells how it is used. The program is in `unix`, because it needs what
//! `LocalLatentWorker` needs.

#[cfg(all(unix, feature = "local"))]
#[path = "../support/numbers.rs"]
mod numbers;
#[cfg(all(unix, feature = "local"))]
#[path = "../support/signals.rs"]
mod signals;
#[cfg(all(unix, feature = "local"))]
mod unix;

#[cfg(all(unix, feature = "local"))]
fn main() -> std::process::ExitCode {
    unix::main()
}

#[cfg(not(all(unix, feature = "local")))]
fn main() -> std::process::ExitCode {
    eprintln!("farm: needs Unix and the feature `local` of latent-worker");
    std::process::ExitCode::from(2)
}
