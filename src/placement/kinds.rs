//! The kinds of instances: which builds an instance can serve.
//!
//! A driver that never refuses a build has one kind for all its instances. Otherwise a kind is what the driver says it
//! is, or all properties of a build. Kinds of the same text from two drivers are different kinds.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::build::Properties;
use crate::worker::Kind;

/// As many answers of drivers are remembered.
const REMEMBERED: usize = 4096;

/// A set of drivers whose kinds can be compared.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(crate) enum Space {
    /// Drivers whose instances fit every build.
    Any,
    /// Drivers that are asked whether an instance fits: each set of properties is a kind.
    Asked,
    /// The driver of this number, which says which kind a build asks for.
    Said(u32),
}

/// Names a kind as long as something holds it.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(super) struct KindId(u32);

/// The kind of all instances of [`Space::Any`].
pub(super) const ANY: KindId = KindId(0);

#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
enum Key {
    Any,
    Asked(Properties),
    Said(u32, Arc<str>),
}

#[derive(Clone, Debug)]
struct Entry {
    key: Key,
    holders: u32,
}

/// All kinds that something holds.
#[derive(Clone, Debug)]
pub(super) struct Kinds {
    entries: Vec<Entry>,
    ids: HashMap<Key, KindId>,
    unused: Vec<KindId>,
    /// What drivers have said lately, so that none is asked the same twice.
    said: HashMap<(u32, Properties), KindId>,
    oldest: VecDeque<(u32, Properties)>,
}

impl Default for Kinds {
    fn default() -> Self {
        let any = Entry { key: Key::Any, holders: 1 };
        let ids = HashMap::from([(Key::Any, ANY)]);
        Self { entries: vec![any], ids, unused: Vec::new(), said: HashMap::new(), oldest: VecDeque::new() }
    }
}

impl Kinds {
    /// The kind that a build with these properties asks of drivers that are asked; held once more.
    pub(super) fn hold_asked(&mut self, properties: &Properties) -> KindId {
        self.hold_key(Key::Asked(properties.clone()))
    }

    /// A kind as its driver names it for these properties; held once more.
    pub(super) fn hold_said(&mut self, driver: u32, kind: &Kind, properties: &Properties) -> KindId {
        let name = kind.name().cloned().unwrap_or_else(|| properties.to_string().into());
        self.hold_key(Key::Said(driver, name))
    }

    /// What a driver has said for these properties, if it is remembered.
    pub(super) fn said(&self, driver: u32, properties: &Properties) -> Option<KindId> {
        self.said.get(&(driver, properties.clone())).copied()
    }

    /// Remembers what a driver has said, and forgets what it has said long ago.
    pub(super) fn remember_said(&mut self, driver: u32, properties: &Properties, kind: KindId) {
        let question = (driver, properties.clone());
        if self.said.contains_key(&question) {
            return;
        }
        self.hold(kind);
        self.said.insert(question.clone(), kind);
        self.oldest.push_back(question);
        if self.oldest.len() > REMEMBERED
            && let Some(oldest) = self.oldest.pop_front()
            && let Some(kind) = self.said.remove(&oldest)
        {
            self.release(kind);
        }
    }

    fn hold_key(&mut self, key: Key) -> KindId {
        if let Some(&kind) = self.ids.get(&key) {
            return self.hold(kind);
        }
        let entry = Entry { key: key.clone(), holders: 1 };
        let kind = match self.unused.pop() {
            Some(kind) => {
                self.entries[kind.0 as usize] = entry;
                kind
            }
            None => {
                self.entries.push(entry);
                KindId(u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 kinds"))
            }
        };
        self.ids.insert(key, kind);
        kind
    }

    /// Held once more.
    pub(super) fn hold(&mut self, kind: KindId) -> KindId {
        // The kind of all is there for ever.
        if kind != ANY {
            self.entries[kind.0 as usize].holders += 1;
        }
        kind
    }

    /// Held once less.
    pub(super) fn release(&mut self, kind: KindId) {
        if kind == ANY {
            return;
        }
        let entry = &mut self.entries[kind.0 as usize];
        entry.holders -= 1;
        if entry.holders > 0 {
            return;
        }
        let key = std::mem::replace(&mut entry.key, Key::Any);
        self.ids.remove(&key);
        self.unused.push(kind);
    }

    pub(super) fn space(&self, kind: KindId) -> Space {
        match &self.entries[kind.0 as usize].key {
            Key::Any => Space::Any,
            Key::Asked(_) => Space::Asked,
            Key::Said(driver, _) => Space::Said(*driver),
        }
    }

    /// What a driver is asked about this kind.
    pub(super) fn properties(&self, kind: KindId) -> Option<&Properties> {
        match &self.entries[kind.0 as usize].key {
            Key::Asked(properties) => Some(properties),
            Key::Any | Key::Said(..) => None,
        }
    }

    /// For people.
    pub(super) fn name(&self, kind: KindId) -> String {
        match &self.entries[kind.0 as usize].key {
            Key::Any => "any".to_owned(),
            Key::Asked(properties) => properties.to_string(),
            Key::Said(_, text) => text.to_string(),
        }
    }
}

#[cfg(test)]
impl Kinds {
    /// Panics unless every kind is held as often as `holders` has it.
    pub(super) fn check(&self, holders: &[KindId]) {
        for (number, entry) in self.entries.iter().enumerate().skip(1) {
            let kind = KindId(number as u32);
            let expected = holders.iter().chain(self.said.values()).filter(|holder| **holder == kind).count();
            assert_eq!(entry.holders as usize, expected, "holders of {kind:?} {:?}", entry.key);
            assert_eq!(self.unused.contains(&kind), expected == 0);
            assert!(expected == 0 || self.ids.get(&entry.key) == Some(&kind));
        }
        assert_eq!(self.ids.len() + self.unused.len(), self.entries.len());
    }
}
