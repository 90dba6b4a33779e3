//! Questions to the services that a machine or a container has at its side.

use std::time::Duration;

use ureq::http::Method;

use super::super::error::AwsError;
use super::super::http::{Answer, Asking, NoAnswer, Wire};
use super::super::patience::Patience;
use super::super::sign::Header;
use super::super::surroundings::Surroundings;
use super::DOING;

/// One that is busy answers with 5xx, or not at all; so it is asked this often, with a pause.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// Why such a service has nothing.
pub(super) enum NoMetadata {
    /// It is not there, or has not what it was asked for.
    Nothing(String),
    /// Whoever asked has no more time.
    Ended(AwsError),
}

#[derive(Clone, Copy)]
pub(in super::super) struct Metadata<'a> {
    pub(in super::super) around: &'a dyn Surroundings,
    pub(in super::super) wire: &'a dyn Wire,
    pub(in super::super) patience: &'a Patience<'a>,
}

impl Metadata<'_> {
    pub(super) fn get(&self, uri: &str, headers: &[Header]) -> Result<String, NoMetadata> {
        self.ask(&Asking { method: Method::GET, uri, headers, body: b"" })
    }

    /// What is answered with 200.
    pub(super) fn ask(&self, asking: &Asking<'_>) -> Result<String, NoMetadata> {
        let mut tries = 0;
        loop {
            let left = self.patience.left(DOING).map_err(NoMetadata::Ended)?;
            let why = match self.wire.ask(asking, left, self.patience.cancel()) {
                Ok(Answer { status: 200, body, .. }) => return Ok(body),
                Ok(Answer { status, .. }) if status < 500 => {
                    return Err(NoMetadata::Nothing(format!("it answers with status {status}")));
                }
                Ok(Answer { status, .. }) => format!("it answers with status {status}"),
                Err(NoAnswer::Cancelled { .. }) => return Err(NoMetadata::Ended(AwsError::cancelled(DOING))),
                // Where there is no such service, packets vanish. One that is there is quick.
                Err(NoAnswer::Unreachable(why)) => return Err(NoMetadata::Nothing(why)),
                Err(NoAnswer::TimedOut) => "it does not answer".into(),
                Err(NoAnswer::Lost(why)) => why,
            };
            tries += 1;
            if tries >= TRIES {
                return Err(NoMetadata::Nothing(why));
            }
            self.patience.wait(PAUSE, DOING).map_err(NoMetadata::Ended)?;
        }
    }
}
