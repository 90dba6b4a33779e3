//! The driver values of a master: each is known once, however many workers share it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::fence::fenced;
use super::instance::Driver;
use super::questions::Questions;
use crate::build::Properties;
use crate::worker::{DriverIdentity, Kind};

/// A driver value, shared by its workers.
pub(super) struct DriverCell {
    /// No two driver values of a master have the same number.
    pub(super) number: u32,
    pub(super) says_kinds: bool,
    /// What it is still to be asked.
    pub(super) questions: Questions,
    /// Present until it is dropped.
    driver: Option<Arc<dyn Driver>>,
}

/// The driver is user code, also as it is dropped; by whom that is, is chance.
impl Drop for DriverCell {
    fn drop(&mut self) {
        let driver = self.driver.take();
        let _ = fenced("dropping the driver", || drop(driver));
    }
}

impl DriverCell {
    pub(super) fn driver(&self) -> &dyn Driver {
        self.driver.as_deref().expect("it is there until the last worker is dropped")
    }

    /// What the driver says is the kind of a build with these properties.
    pub(super) fn kind(&self, properties: &Properties) -> Result<Kind, Arc<str>> {
        fenced("kind", || self.driver().kind(properties)).unwrap_or_else(Err)
    }

    /// Whether two builds ask for the same kind of instance.
    pub(super) fn same_kind(&self, one: &Properties, other: &Properties) -> Result<bool, Arc<str>> {
        let (kind, other_kind) = (self.kind(one)?, self.kind(other)?);
        Ok(kind == other_kind && (kind.name().is_some() || one == other))
    }
}

/// The driver values that workers use.
#[derive(Default)]
pub(super) struct Drivers {
    shared: HashMap<DriverIdentity, Weak<DriverCell>>,
    next: u32,
}

impl Drivers {
    /// The cell of a driver value. A value that is known already stays the one that is called.
    pub(super) fn hold(
        &mut self,
        driver: &Arc<dyn Driver>,
        identity: Option<DriverIdentity>,
        says_kinds: bool,
    ) -> Arc<DriverCell> {
        // While the cell exists it holds the value, so that no other value can have the same identity.
        let known = identity.as_ref().and_then(|identity| self.shared.get(identity)).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let cell = DriverCell {
                number: self.next,
                says_kinds,
                questions: Questions::default(),
                driver: Some(driver.clone()),
            };
            self.next = self.next.checked_add(1).expect("fewer than 2^32 drivers");
            let cell = Arc::new(cell);
            if let Some(identity) = identity {
                self.shared.insert(identity, Arc::downgrade(&cell));
            }
            cell
        })
    }
}
