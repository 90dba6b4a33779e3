//! The pace of each account at each endpoint, which all clients in this process keep together.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use super::error::{AwsError, Class};
use super::pace::{Kind, Pace};
use super::patience::Patience;
use super::place::Service;

/// An endpoint, a region in it, and who asks.
type Key = [String; 3];

/// Those that somebody holds.
static ALL: LazyLock<Mutex<HashMap<Key, Weak<SharedPace>>>> = LazyLock::new(Mutex::default);

/// Those that one client keeps: of each service the last, so that it lasts from one call to the next.
#[derive(Default)]
pub(super) struct Paces(Mutex<HashMap<Service, (Key, Arc<SharedPace>)>>);

/// One that many keep.
pub(super) struct SharedPace(Mutex<Pace>);

impl Paces {
    pub(super) fn of(&self, service: Service, key: [&str; 3], now: Instant) -> Arc<SharedPace> {
        let mut held = self.0.lock();
        if let Some((its, pace)) = held.get(&service)
            && *its == key
        {
            return pace.clone();
        }
        let key = key.map(str::to_owned);
        let pace = SharedPace::of(&key, now);
        held.insert(service, (key, pace.clone()));
        pace
    }
}

impl SharedPace {
    fn of(key: &Key, now: Instant) -> Arc<Self> {
        let mut all = ALL.lock();
        if let Some(pace) = all.get(key).and_then(Weak::upgrade) {
            return pace;
        }
        all.retain(|_, pace| pace.strong_count() > 0);
        let pace = Arc::new(Self(Mutex::new(Pace::new(now))));
        all.insert(key.clone(), Arc::downgrade(&pace));
        pace
    }

    /// Waits for the caller's turn.
    ///
    /// # Errors
    /// At once when that comes too late for it, which is a throttle of our own; and when it is cancelled meanwhile.
    pub(super) fn wait(&self, kind: Kind, doing: &str, patience: &Patience<'_>) -> Result<(), AwsError> {
        let wait = self.0.lock().take(kind, patience.now());
        if wait.is_zero() {
            return Ok(());
        }
        log::debug!("{doing}: its turn comes in {wait:.1?}");
        patience.wait_for_turn(wait, doing).map_err(|end| {
            self.0.lock().give_back(kind, patience.now());
            match end.class() {
                Class::TimedOut => {
                    let what = format!("too many calls of this process wait: its turn would come in {wait:.1?}");
                    AwsError::new(Class::Throttled { retry_after: Some(wait) }, doing, what)
                }
                _ => end,
            }
        })
    }

    /// The provider has said that it is too fast.
    pub(super) fn throttled(&self, kind: Kind, now: Instant) {
        self.0.lock().throttled(kind, now);
    }
}
