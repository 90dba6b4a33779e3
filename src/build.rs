//! What is asked of a worker: a [`Build`] with its [`Properties`], the [`Labels`] it needs, and the ids that name things.
//!
//! Plain values only. Where a build waits and which worker gets it is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

/// The number of a submitted build: 1, 2, 3 … in the order in which one master took them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BuildId(pub(crate) u64);

impl BuildId {
    /// The number itself; the first build of a master is 1.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// For one that was kept as a number. A master does not know a build that it was not given.
impl From<u64> for BuildId {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// The number of an attempt to bring an instance of one worker up: 1, 2, 3 … It never repeats within one worker, so
/// that an answer that comes late can be told from one that is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Epoch(pub(crate) u64);

impl Epoch {
    /// The number itself; 0 means that there was no attempt yet.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a build is about, as names and values: what a driver renders its settings from and compares instances by.
///
/// A copy is cheap: copies share one map until one of them is changed.
///
/// ```
/// use latent_worker::Properties;
///
/// let properties: Properties = [("image", "rust:1.89"), ("memory", "2G")].into_iter().collect();
/// assert_eq!(properties.get("image"), Some("rust:1.89"));
/// assert_eq!(properties.to_string(), "image=rust:1.89 memory=2G");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Properties(Arc<BTreeMap<String, String>>);

impl Properties {
    /// No properties.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `name`, if it was set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Sets `name`, replacing an earlier value.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        Arc::make_mut(&mut self.0).insert(name.into(), value.into());
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Properties {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let map = pairs.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self(Arc::new(map.collect()))
    }
}

impl fmt::Display for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.iter().enumerate() {
            let separator = if i == 0 { "" } else { " " };
            write!(f, "{separator}{name}={value}")?;
        }
        Ok(())
    }
}

/// A set of labels: what a worker offers, or what a build needs.
///
/// A worker fits a build when it offers every label that the build needs. A copy is cheap.
///
/// ```
/// use latent_worker::Labels;
///
/// let offered: Labels = ["linux", "gpu"].into_iter().collect();
/// let needed: Labels = ["gpu"].into_iter().collect();
/// assert!(offered.contains_all(&needed));
/// assert!(!needed.contains_all(&offered));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Labels(Arc<BTreeSet<Arc<str>>>);

impl Labels {
    /// No labels.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one label; one that is there already is not added twice.
    pub fn insert(&mut self, label: impl Into<Arc<str>>) {
        Arc::make_mut(&mut self.0).insert(label.into());
    }

    /// Whether `label` is among them.
    pub fn contains(&self, label: &str) -> bool {
        self.0.contains(label)
    }

    /// Whether every label of `needed` is among these.
    pub fn contains_all(&self, needed: &Labels) -> bool {
        needed.0.is_subset(&self.0)
    }

    /// The labels, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<L: Into<Arc<str>>> FromIterator<L> for Labels {
    fn from_iter<I: IntoIterator<Item = L>>(labels: I) -> Self {
        Self(Arc::new(labels.into_iter().map(Into::into).collect()))
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, label) in self.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{label}")?;
        }
        Ok(())
    }
}

/// One unit of work: a name for people, properties for the driver, and what the queue needs to know.
///
/// The work itself is not in it: the answer to a submitted build is a [`Lease`](crate::Lease), through which the caller
/// does the work. A copy is cheap.
///
/// ```
/// use latent_worker::Build;
///
/// let build = Build::new("nightly").with_property("image", "rust:1.89").with_label("linux").with_priority(5);
/// assert_eq!(build.properties().get("image"), Some("rust:1.89"));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Build(Arc<Settings>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Settings {
    name: Arc<str>,
    properties: Properties,
    labels: Labels,
    priority: i32,
    max_attempts: Option<NonZeroU32>,
}

impl Build {
    /// Returns a build without properties that any worker fits, of priority 0, with the number of attempts that the master
    /// allows ([`PlacementConfig::with_max_attempts`](crate::PlacementConfig::with_max_attempts), 10 by default).
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(Arc::new(Settings {
            name: name.into(),
            properties: Properties::default(),
            labels: Labels::default(),
            priority: 0,
            max_attempts: None,
        }))
    }

    fn change(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Sets one property.
    #[must_use]
    pub fn with_property(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.change(|settings| settings.properties.set(name, value))
    }

    /// Replaces all properties.
    #[must_use]
    pub fn with_properties(self, properties: Properties) -> Self {
        self.change(|settings| settings.properties = properties)
    }

    /// Needs a worker that offers `label`; every call adds one.
    #[must_use]
    pub fn with_label(self, label: impl Into<Arc<str>>) -> Self {
        self.change(|settings| settings.labels.insert(label))
    }

    /// Builds of a higher priority go first; among equals the older one, which may wait for the
    /// [patience](crate::PlacementConfig::with_patience) that it has with younger builds of other kinds. 0 by default.
    #[must_use]
    pub fn with_priority(self, priority: i32) -> Self {
        self.change(|settings| settings.priority = priority)
    }

    /// Ends the build with [`BuildError::AttemptsExhausted`](crate::BuildError::AttemptsExhausted) after this many failed
    /// attempts. An attempt is a start that was called for this build, or a lease that was given back with
    /// [`Lease::retry`](crate::Lease::retry) or [`Lease::retire`](crate::Lease::retire). Between two attempts the build
    /// [pauses](crate::PlacementConfig::with_retry_pause).
    ///
    /// [`PlacementConfig::with_max_attempts`](crate::PlacementConfig::with_max_attempts) by default.
    #[must_use]
    #[doc(alias = "retries")]
    pub fn with_max_attempts(self, attempts: NonZeroU32) -> Self {
        self.change(|settings| settings.max_attempts = Some(attempts))
    }

    /// The name that it was given; names need not be unique.
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// Its properties.
    pub fn properties(&self) -> &Properties {
        &self.0.properties
    }

    /// The labels that a worker must offer.
    pub fn labels(&self) -> &Labels {
        &self.0.labels
    }

    /// Its priority.
    pub fn priority(&self) -> i32 {
        self.0.priority
    }

    /// The limit of attempts; `None` when that of the master holds.
    pub fn max_attempts(&self) -> Option<NonZeroU32> {
        self.0.max_attempts
    }
}
