//! Containers of a real engine as workers.
//!
//! Nothing here asks a registry: the tests make their images from a static agent and a static busybox. `TEST_DOCKER_HOST`
//! and `TEST_PODMAN_HOST` say where the engines are, as `DOCKER_HOST` does. Containers of a bridge network connect to
//! this process, so that it must be where the engine's bridges are: on the same machine, in the same network namespace.
//! `TEST_AGENT` is what this has built:
//!
//! ```sh
//! cargo rustc --release --example agent --features agent --target x86_64-unknown-linux-gnu -- \
//!     -C target-feature=+crt-static -C strip=symbols
//! ```
#![cfg(target_os = "linux")]

mod basics;
mod conformance;
#[cfg(feature = "tls")]
mod encrypted;
mod failures;
mod farm;
mod neighbours;
mod outages;
mod pulls;
#[path = "../support/record.rs"]
mod record;
mod settings;
mod stock;
mod support;
