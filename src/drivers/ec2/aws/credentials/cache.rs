//! The credentials in use: how long they are, and who brings new ones.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::super::error::{AwsError, Class};
use super::{AwsCredentials, DOING, Sources};

/// They are replaced when they expire within this many seconds, so that no request is on its way when they do.
const EARLY: i64 = 300;
/// When they could not be replaced, and are still good, it is tried again after this.
const AGAIN: Duration = Duration::from_secs(30);
/// So often somebody who waits for another to bring them looks whether he has.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(in super::super) struct Cache {
    held: Mutex<Held>,
    /// Held by the one who brings new ones. The others use what there is as long as it is good.
    bringing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Held {
    credentials: Option<AwsCredentials>,
    /// It has just failed.
    not_before: Option<Instant>,
    /// The last failure, and how many there were: those who have waited for it share it.
    failure: Option<AwsError>,
    failures: u64,
}

impl Cache {
    /// Those that are held, or new ones when these will expire soon.
    pub(in super::super) fn get(&self, sources: &Sources<'_>) -> Result<AwsCredentials, AwsError> {
        let failures = self.held.lock().failures;
        loop {
            if let Some(credentials) = self.lasting(EARLY, sources) {
                return Ok(credentials);
            }
            let still_good = self.lasting(0, sources);
            let (tried, is_too_soon) = {
                let held = self.held.lock();
                let failure = held.failure.clone().filter(|_| held.failures != failures);
                (failure, held.not_before.is_some_and(|not_before| sources.now() < not_before))
            };
            match (still_good, tried) {
                (Some(still_good), _) if is_too_soon => return Ok(still_good),
                (None, Some(failure)) => return Err(failure),
                (still_good, _) => {
                    if let Some(_bringing) = self.bringing.try_lock() {
                        return self.bring(sources, still_good);
                    }
                    match still_good {
                        Some(still_good) => return Ok(still_good),
                        None => sources.metadata.patience.wait(TICK, DOING)?,
                    }
                }
            }
        }
    }

    fn lasting(&self, seconds: i64, sources: &Sources<'_>) -> Option<AwsCredentials> {
        let time = sources.time();
        self.held.lock().credentials.clone().filter(|credentials| credentials.last(time, seconds))
    }

    fn bring(&self, sources: &Sources<'_>, still_good: Option<AwsCredentials>) -> Result<AwsCredentials, AwsError> {
        // Somebody else may just have done it.
        if let Some(credentials) = self.lasting(EARLY, sources) {
            return Ok(credentials);
        }
        let found = sources.find();
        let mut held = self.held.lock();
        match found {
            Ok(found) => {
                held.credentials = Some(found.clone());
                held.not_before = None;
                Ok(found)
            }
            Err(error) => {
                // That one of them has given up says nothing to the others.
                if !matches!(error.class(), Class::Cancelled | Class::TimedOut) {
                    held.failures += 1;
                    held.failure = Some(error.clone());
                    held.not_before = sources.now().checked_add(AGAIN);
                }
                let Some(still_good) = still_good else { return Err(error) };
                log::warn!("credentials that expire soon are used on, because there are no new ones: {error}");
                Ok(still_good)
            }
        }
    }

    #[cfg(test)]
    pub(super) fn holding(credentials: Option<AwsCredentials>) -> Self {
        let held = Mutex::new(Held { credentials, ..Held::default() });
        Self { held, bringing: Mutex::default() }
    }

    /// The provider does not take these any more: others are looked for.
    pub(in super::super) fn reject(&self, credentials: &AwsCredentials) {
        let mut held = self.held.lock();
        if held.credentials.as_ref().is_some_and(|held| held.access_key_id == credentials.access_key_id) {
            held.credentials = None;
        }
    }
}
