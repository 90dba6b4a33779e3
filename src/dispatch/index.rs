//! The indices that make a choice cheap: which workers stand open for which labels, and which builds wait for them.
//!
//! Workers of identical labels form a *class*; every class keeps its open workers sorted on [`Shelf`]s. Builds of
//! identical needs share a *route*, which knows the classes that fit and, for every shelf, the first worker of each of
//! them. So the best worker for a build is found without a look at any worker that cannot take it. What a build has
//! been through, and what a worker was told, is not known here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::WorkerIndex;
use crate::build::{BuildId, Labels};

/// Routes without builds are kept for the next build of the same needs, up to this many routes in all. Each costs a
/// little whenever a worker that fits changes.
const CACHED_ROUTES: usize = 128;

/// The place of a build in the queue: priority, then age. It never changes, so that a build that comes back stands
/// where it stood.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(super) struct Rank {
    priority: Reverse<i32>,
    pub(super) build: BuildId,
}

impl Rank {
    pub(super) fn new(priority: i32, build: BuildId) -> Self {
        Self { priority: Reverse(priority), build }
    }
}

/// What an open worker offers, in order of preference.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(super) enum Shelf {
    /// An instance is attached and has room.
    Attached,
    /// A start.
    Down,
    /// A start, once the stop that is under way is over.
    Stopping,
    /// To wait with others for a start that is under way.
    Joinable,
    /// An attached instance that may be stopped in favour of a new one. Its worker is on `Attached` too.
    Recyclable,
}

const SHELVES: usize = Shelf::Recyclable as usize + 1;

/// How a worker stands towards the queue.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(super) enum Stand {
    /// It takes nothing.
    Closed,
    /// It takes nothing for the moment: it is being given a build, or starts for one that it may not share with others.
    Engaged,
    Attached {
        recyclable: bool,
    },
    Down,
    Stopping,
    Joinable,
}

impl Stand {
    fn shelves(self) -> &'static [Shelf] {
        match self {
            Self::Closed | Self::Engaged => &[],
            Self::Attached { recyclable: false } => &[Shelf::Attached],
            Self::Attached { recyclable: true } => &[Shelf::Attached, Shelf::Recyclable],
            Self::Down => &[Shelf::Down],
            Self::Stopping => &[Shelf::Stopping],
            Self::Joinable => &[Shelf::Joinable],
        }
    }
}

#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
struct ClassIndex(u32);

/// Names a route. Never used again for another one.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Debug)]
pub(super) struct RouteIndex(u64);

/// How the workers that fit a route stand.
pub(super) struct Census {
    pub(super) fitting: usize,
    pub(super) open: usize,
    pub(super) closed: usize,
}

#[derive(Clone, Debug, Default)]
struct Class {
    labels: Labels,
    shelves: [BTreeSet<WorkerIndex>; SHELVES],
    routes: BTreeSet<RouteIndex>,
    workers: usize,
    open: usize,
    closed: usize,
}

#[derive(Clone, Debug, Default)]
struct Route {
    needed: Labels,
    /// The needed label that the fewest classes had when the route was made; it is found by that. `None`: needs nothing.
    anchor: Option<Arc<str>>,
    classes: Vec<ClassIndex>,
    /// For every shelf, the first worker of each class that has one there.
    heads: [BTreeSet<WorkerIndex>; SHELVES],
    waiting: BTreeSet<Rank>,
    /// How many builds hold this route, wherever they are.
    builds: usize,
}

impl Route {
    fn is_open(&self) -> bool {
        self.heads.iter().any(|heads| !heads.is_empty())
    }

    fn add_class(&mut self, index: ClassIndex, class: &Class) {
        self.classes.push(index);
        for (heads, shelf) in self.heads.iter_mut().zip(&class.shelves) {
            heads.extend(shelf.first());
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    workers: Vec<(ClassIndex, Stand)>,
    classes: Vec<Class>,
    class_of: BTreeMap<Labels, ClassIndex>,
    having: BTreeMap<Arc<str>, Vec<ClassIndex>>,
    routes: BTreeMap<RouteIndex, Route>,
    route_of: BTreeMap<Labels, RouteIndex>,
    anchored: BTreeMap<Option<Arc<str>>, BTreeSet<RouteIndex>>,
    /// Routes that no build holds.
    unheld: BTreeSet<RouteIndex>,
    /// Routes with both a waiting build and an open worker.
    ready: BTreeSet<RouteIndex>,
    last_route: u64,
    waiting: usize,
}

/// Workers.
impl Index {
    /// The next worker; it stands closed.
    pub(super) fn add_worker(&mut self, labels: Labels) {
        let class = match self.class_of.get(&labels) {
            Some(&class) => class,
            None => self.add_class(labels),
        };
        self.workers.push((class, Stand::Closed));
        let class = &mut self.classes[class.0 as usize];
        class.workers += 1;
        class.closed += 1;
    }

    fn add_class(&mut self, labels: Labels) -> ClassIndex {
        let index = ClassIndex(u32::try_from(self.classes.len()).expect("fewer than 2^32 workers"));
        let mut class = Class { labels: labels.clone(), ..Class::default() };
        for label in labels.iter() {
            self.having.entry(label.clone()).or_default().push(index);
        }
        // A route that fits is anchored at one of these labels, or at none.
        let anchors = std::iter::once(None).chain(labels.iter().cloned().map(Some));
        for route_index in anchors.filter_map(|anchor| self.anchored.get(&anchor)).flatten() {
            let route = self.routes.get_mut(route_index).expect("an anchored route exists");
            if labels.contains_all(&route.needed) {
                route.add_class(index, &class);
                class.routes.insert(*route_index);
            }
        }
        self.classes.push(class);
        self.class_of.insert(labels, index);
        index
    }

    pub(super) fn set_stand(&mut self, worker: WorkerIndex, stand: Stand) {
        let (class_index, old) = self.workers[worker.0 as usize];
        if old == stand {
            return;
        }
        self.workers[worker.0 as usize].1 = stand;
        let class = &mut self.classes[class_index.0 as usize];
        let count = |is: bool| usize::from(is);
        class.open = class.open + count(!stand.shelves().is_empty()) - count(!old.shelves().is_empty());
        class.closed = class.closed + count(stand == Stand::Closed) - count(old == Stand::Closed);
        for &shelf in old.shelves() {
            self.change_shelf(class_index, shelf, |workers| workers.remove(&worker));
        }
        for &shelf in stand.shelves() {
            self.change_shelf(class_index, shelf, |workers| workers.insert(worker));
        }
    }

    fn change_shelf(
        &mut self,
        class: ClassIndex,
        shelf: Shelf,
        change: impl FnOnce(&mut BTreeSet<WorkerIndex>) -> bool,
    ) {
        let class = &mut self.classes[class.0 as usize];
        let workers = &mut class.shelves[shelf as usize];
        let before = workers.first().copied();
        change(workers);
        let after = workers.first().copied();
        if before == after {
            return;
        }
        for index in &class.routes {
            let route = self.routes.get_mut(index).expect("a class names only routes that exist");
            let heads = &mut route.heads[shelf as usize];
            if let Some(before) = before {
                heads.remove(&before);
            }
            heads.extend(after);
            note_readiness(&mut self.ready, *index, route);
        }
    }

    /// The first worker of the route on `shelf`.
    pub(super) fn first(&self, route: RouteIndex, shelf: Shelf) -> Option<WorkerIndex> {
        self.routes[&route].heads[shelf as usize].first().copied()
    }

    /// The first worker of the route on `shelf` that is accepted. Looks at those that are not, and at one more.
    pub(super) fn first_accepted(
        &self,
        route: RouteIndex,
        shelf: Shelf,
        accepted: impl Fn(WorkerIndex) -> bool,
    ) -> Option<WorkerIndex> {
        let mut best: Option<WorkerIndex> = None;
        for &head in &self.routes[&route].heads[shelf as usize] {
            // Heads come in order, and nobody in a class comes before its head.
            if best.is_some_and(|best| best < head) {
                break;
            }
            let (class, _) = self.workers[head.0 as usize];
            let of_class = &self.classes[class.0 as usize].shelves[shelf as usize];
            let found = of_class.iter().copied().find(|&worker| accepted(worker));
            best = best.into_iter().chain(found).min();
        }
        best
    }
}

/// Routes, and the builds that wait on them.
impl Index {
    /// The route for builds that need these labels, held for one more build; `None` when no worker fits.
    pub(super) fn hold_route(&mut self, needed: &Labels) -> Option<RouteIndex> {
        let index = match self.route_of.get(needed) {
            Some(&index) => index,
            None => self.add_route(needed)?,
        };
        self.unheld.remove(&index);
        self.route_mut(index).builds += 1;
        Some(index)
    }

    /// One build less holds the route.
    pub(super) fn release_route(&mut self, index: RouteIndex) {
        let route = self.route_mut(index);
        route.builds -= 1;
        if route.builds == 0 {
            self.unheld.insert(index);
            if self.routes.len() > CACHED_ROUTES
                && let Some(oldest) = self.unheld.pop_first()
            {
                self.remove_route(oldest);
            }
        }
    }

    fn add_route(&mut self, needed: &Labels) -> Option<RouteIndex> {
        let rarest = needed.iter().min_by_key(|label| self.having.get(*label).map_or(0, Vec::len));
        let fits = |class: &ClassIndex| self.classes[class.0 as usize].labels.contains_all(needed);
        let classes: Vec<ClassIndex> = match rarest {
            Some(label) => self.having.get(label)?.iter().copied().filter(fits).collect(),
            None => (0..self.classes.len() as u32).map(ClassIndex).collect(),
        };
        if classes.is_empty() {
            return None;
        }
        let mut route = Route { needed: needed.clone(), anchor: rarest.cloned(), ..Route::default() };
        self.last_route += 1;
        let index = RouteIndex(self.last_route);
        for class_index in classes {
            let class = &mut self.classes[class_index.0 as usize];
            class.routes.insert(index);
            route.add_class(class_index, class);
        }
        self.anchored.entry(route.anchor.clone()).or_default().insert(index);
        self.route_of.insert(needed.clone(), index);
        self.routes.insert(index, route);
        Some(index)
    }

    fn remove_route(&mut self, index: RouteIndex) {
        let route = self.routes.remove(&index).expect("only a route that exists is removed");
        self.route_of.remove(&route.needed);
        for class in route.classes {
            self.classes[class.0 as usize].routes.remove(&index);
        }
        if let Some(routes) = self.anchored.get_mut(&route.anchor) {
            routes.remove(&index);
            if routes.is_empty() {
                self.anchored.remove(&route.anchor);
            }
        }
    }

    fn route_mut(&mut self, index: RouteIndex) -> &mut Route {
        self.routes.get_mut(&index).expect("a held route exists")
    }

    pub(super) fn enqueue(&mut self, index: RouteIndex, rank: Rank) {
        let route = self.routes.get_mut(&index).expect("a held route exists");
        self.waiting += usize::from(route.waiting.insert(rank));
        note_readiness(&mut self.ready, index, route);
    }

    pub(super) fn dequeue(&mut self, index: RouteIndex, rank: Rank) {
        let route = self.routes.get_mut(&index).expect("a held route exists");
        self.waiting -= usize::from(route.waiting.remove(&rank));
        note_readiness(&mut self.ready, index, route);
    }

    /// How many builds wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The first build of every route that has both a waiting build and an open worker.
    pub(super) fn ready(&self) -> impl Iterator<Item = (Rank, RouteIndex)> {
        let first = |index: &RouteIndex| self.routes[index].waiting.first().copied();
        self.ready.iter().filter_map(move |index| first(index).map(|rank| (rank, *index)))
    }

    pub(super) fn is_ready(&self, index: RouteIndex) -> bool {
        self.ready.contains(&index)
    }

    /// The next build of the route after that of `rank`.
    pub(super) fn next_after(&self, index: RouteIndex, rank: Rank) -> Option<Rank> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.routes[&index].waiting.range((Excluded(rank), Unbounded)).next().copied()
    }

    /// How many builds of the route go before that of `rank`.
    pub(super) fn ahead(&self, index: RouteIndex, rank: Rank) -> usize {
        self.routes[&index].waiting.range(..rank).count()
    }

    pub(super) fn census(&self, index: RouteIndex) -> Census {
        let mut census = Census { fitting: 0, open: 0, closed: 0 };
        for class in &self.routes[&index].classes {
            let class = &self.classes[class.0 as usize];
            census.fitting += class.workers;
            census.open += class.open;
            census.closed += class.closed;
        }
        census
    }

    /// Why no worker offers all of `needed`, for people.
    pub(super) fn why_nobody_fits(&self, needed: &Labels) -> String {
        if self.workers.is_empty() {
            return "there are no workers".to_owned();
        }
        let missing: Vec<_> = needed.iter().filter(|label| !self.having.contains_key(*label)).collect();
        match missing.as_slice() {
            [] => "each of them is offered, but no single worker offers all of them".to_owned(),
            missing => {
                let missing: Vec<String> = missing.iter().map(|label| format!("{label:?}")).collect();
                format!("no worker offers {}", missing.join(" or "))
            }
        }
    }
}

fn note_readiness(ready: &mut BTreeSet<RouteIndex>, index: RouteIndex, route: &Route) {
    if route.waiting.is_empty() || !route.is_open() {
        ready.remove(&index);
    } else {
        ready.insert(index);
    }
}

#[cfg(test)]
impl Index {
    /// Everything that is derived is what it is derived from. Returns what waits.
    pub(super) fn assert_consistent(&self, held: &BTreeMap<RouteIndex, usize>) -> BTreeSet<Rank> {
        for (i, class) in self.classes.iter().enumerate() {
            let index = ClassIndex(i as u32);
            let members = || (0u32..).zip(&self.workers).filter(move |(_, (class, _))| *class == index);
            assert_eq!(class.workers, members().count());
            assert_eq!(class.open, members().filter(|(_, (_, stand))| !stand.shelves().is_empty()).count());
            assert_eq!(class.closed, members().filter(|(_, (_, stand))| *stand == Stand::Closed).count());
            for (shelf, workers) in class.shelves.iter().enumerate() {
                let stands = |stand: &Stand| stand.shelves().iter().any(|on| *on as usize == shelf);
                assert!(
                    members()
                        .filter(|(_, (_, stand))| stands(stand))
                        .map(|(i, _)| WorkerIndex(i))
                        .eq(workers.iter().copied())
                );
            }
            let fitting = self.routes.iter().filter(|(_, route)| class.labels.contains_all(&route.needed));
            assert!(fitting.map(|(index, _)| index).eq(&class.routes));
        }
        let mut waiting = BTreeSet::new();
        for (index, route) in &self.routes {
            let fits = |class: &&ClassIndex| self.classes[class.0 as usize].routes.contains(index);
            assert_eq!(route.classes.iter().filter(fits).count(), route.classes.len());
            for (shelf, heads) in route.heads.iter().enumerate() {
                let firsts =
                    route.classes.iter().filter_map(|class| self.classes[class.0 as usize].shelves[shelf].first());
                assert_eq!(*heads, firsts.copied().collect());
            }
            assert_eq!(self.ready.contains(index), route.is_open() && !route.waiting.is_empty());
            assert_eq!(route.builds, held.get(index).copied().unwrap_or(0));
            assert_eq!(self.unheld.contains(index), route.builds == 0);
            assert_eq!(self.route_of.get(&route.needed), Some(index));
            assert!(self.anchored[&route.anchor].contains(index));
            waiting.extend(route.waiting.iter().copied());
        }
        assert!(self.ready.iter().chain(&self.unheld).all(|index| self.routes.contains_key(index)));
        assert_eq!(self.route_of.len(), self.routes.len());
        assert_eq!(self.anchored.values().map(BTreeSet::len).sum::<usize>(), self.routes.len());
        assert_eq!(self.waiting, waiting.len());
        waiting
    }

    pub(super) fn routes(&self) -> usize {
        self.routes.len()
    }
}
