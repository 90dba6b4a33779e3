//! Against the real thing: agents that are processes attach over a socket, run commands and move files.
//!
//! What is the same for all agents is asked of two: an unmodified `buildbot-worker` from PyPI, which `.ci/run` installs
//! and names in `TEST_BUILDBOT_WORKER`, and our own, which is `examples/agent`. `cargo test` builds the example; with
//! `--test agent` alone it must have been built before. Both are started by a `CommandLatentWorker`, with the shell scripts in
//! `programs`.
#![cfg(unix)]

/// Each scenario as one test for every kind of agent.
macro_rules! for_both_agents {
    ($($scenario:ident),* $(,)?) => {
        mod stock {
            $(
                #[test]
                #[ignore = "needs buildbot-worker"]
                fn $scenario() {
                    super::$scenario(crate::support::Kind::Stock);
                }
            )*
        }
        mod ours {
            $(
                #[test]
                fn $scenario() {
                    super::$scenario(crate::support::Kind::Ours);
                }
            )*
        }
    };
}

mod commands;
mod files;
mod ours;
mod program;
mod secret;
mod support;
mod trouble;
