//! Which workers offer which labels: the index that finds a worker for a build without a look at those that do not fit.
//!
//! Workers with the same labels form a *class*. Builds that need the same labels share a *route*, which knows the
//! classes that fit it. A class keeps its workers that could start an instance sorted on [`Shelf`]s, a route the first
//! worker of each class, and everything about instances that are up or starting: their free places and their number,
//! by kind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::WorkerIndex;
use super::kinds::{KindId, Space};
use super::sorted::{SortedMap, SortedSet};
use crate::build::Labels;
use crate::build_status::ObstacleReason;

/// Routes without builds are kept for the next build of the same needs, up to this many routes in all. Each costs a
/// little whenever a worker that fits changes.
const CACHED_ROUTES: usize = 128;

/// A worker that could start an instance, and what has to happen before.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub(super) enum Shelf {
    /// There is no instance.
    Down,
    /// The last instance is being stopped.
    Stopping,
    /// An unused instance has to be replaced.
    Unused,
}

pub(super) const SHELVES: [Shelf; 3] = [Shelf::Down, Shelf::Stopping, Shelf::Unused];

/// The order of workers on one shelf: what goes first is taken first.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(super) struct Turn {
    pub(super) key: u64,
    pub(super) worker: WorkerIndex,
}

#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(super) struct ClassIndex(u32);

/// Names a route. Never used again for another one.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(super) struct RouteIndex(u64);

/// Instances of one kind that a route can use.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub(super) struct Supply {
    /// Workers with an attached instance that has a free place.
    pub(super) free: SortedSet<Turn>,
    /// Free places of those.
    pub(super) free_places: usize,
    /// Places of instances that are on their way.
    pub(super) starting: usize,
    /// Builds that run.
    pub(super) busy: usize,
}

impl Supply {
    fn is_nothing(&self) -> bool {
        self.free_places + self.starting + self.busy == 0
    }
}

/// What one worker contributes to a [`Supply`].
#[derive(Copy, Clone, Default, PartialEq, Eq, Hash, Debug)]
pub(super) struct Share {
    pub(super) free: usize,
    pub(super) starting: usize,
    pub(super) busy: usize,
}

/// What could be had of a worker.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(super) enum Readiness {
    /// Nothing for a while: it is closed, or a call takes too long.
    OutOfUse,
    /// An instance has to be started.
    Down,
    Attached,
}

/// Workers of which the same can be expected.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub(super) struct Group {
    pub(super) driver: u32,
    pub(super) readiness: Readiness,
}

/// How many workers there are, by what their drivers know of kinds.
#[derive(Copy, Clone, Default, PartialEq, Eq, Hash, Debug)]
pub(super) struct Census {
    pub(super) any: usize,
    pub(super) asked: usize,
    pub(super) said: usize,
}

impl Census {
    fn count(&mut self, space: Space) {
        match space {
            Space::Any => self.any += 1,
            Space::Asked => self.asked += 1,
            Space::Said(_) => self.said += 1,
        }
    }

    fn add(&mut self, other: Self) {
        self.any += other.any;
        self.asked += other.asked;
        self.said += other.said;
    }

    /// Which kinds a build has: one for all of [`Space::Any`], one of its properties, and those that drivers say.
    fn shape(self) -> (bool, bool, bool) {
        (self.any > 0, self.asked > 0, self.said > 0)
    }
}

#[derive(Clone, Debug, Default)]
struct Class {
    labels: Labels,
    shelves: [SortedSet<Turn>; SHELVES.len()],
    routes: BTreeSet<RouteIndex>,
    workers: Census,
    /// The first worker of each driver that says kinds.
    speakers: BTreeMap<u32, WorkerIndex>,
    /// Its workers, by what stands in the way of builds there.
    obstacles: [SortedSet<WorkerIndex>; ObstacleReason::ALL.len()],
    groups: BTreeMap<Group, SortedSet<WorkerIndex>>,
    /// Its workers that contribute to a supply.
    suppliers: SortedSet<WorkerIndex>,
}

impl Class {
    /// Workers with few labels are used first: what is scarce is left for the builds that need it.
    fn turn(&self, worker: WorkerIndex) -> Turn {
        Turn { key: self.labels.len() as u64, worker }
    }
}

#[derive(Clone, Debug, Default)]
struct Route {
    needed: Labels,
    /// The needed label that the fewest classes had when the route was made; it is found by that. `None`: needs nothing.
    anchor: Option<Arc<str>>,
    classes: BTreeSet<ClassIndex>,
    /// For every shelf, the first worker of each class that has one there.
    heads: [SortedSet<Turn>; SHELVES.len()],
    supply: SortedMap<KindId, Supply>,
    workers: Census,
    /// A worker of each driver that says kinds.
    speakers: BTreeMap<u32, WorkerIndex>,
    /// How many needs hold this route.
    holders: usize,
}

impl Route {
    /// `shares`: what each worker contributes.
    fn add_class(&mut self, index: ClassIndex, class: &Class, shares: &[Vec<(KindId, Share)>]) {
        self.classes.insert(index);
        self.workers.add(class.workers);
        for (&driver, &worker) in &class.speakers {
            self.speakers.entry(driver).or_insert(worker);
        }
        for (heads, shelf) in self.heads.iter_mut().zip(&class.shelves) {
            heads.extend(shelf.first().copied());
        }
        for &worker in class.suppliers.iter() {
            for &(kind, share) in &shares[worker.0 as usize] {
                self.contribute(kind, class.turn(worker), Share::default(), share);
            }
        }
    }

    /// `turn`: of the worker, among those with a free place.
    fn contribute(&mut self, kind: KindId, turn: Turn, old: Share, new: Share) {
        let supply = self.supply.get_or_default(kind);
        if new.free > 0 {
            supply.free.insert(turn);
        } else {
            supply.free.remove(&turn);
        }
        supply.free_places = supply.free_places + new.free - old.free;
        supply.starting = supply.starting + new.starting - old.starting;
        supply.busy = supply.busy + new.busy - old.busy;
        if supply.is_nothing() {
            self.supply.remove(&kind);
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct LabelIndex {
    /// The class of every worker.
    class_of_worker: Vec<ClassIndex>,
    on_shelf: Vec<Option<(Shelf, u64)>>,
    /// What each worker contributes, by kind, sorted; nothing in it is nothing.
    shares: Vec<Vec<(KindId, Share)>>,
    obstacles: Vec<Option<ObstacleReason>>,
    groups: Vec<Option<Group>>,
    classes: Vec<Class>,
    class_of: BTreeMap<Labels, ClassIndex>,
    having: BTreeMap<Arc<str>, Vec<ClassIndex>>,
    routes: SortedMap<RouteIndex, Route>,
    route_of: BTreeMap<Labels, RouteIndex>,
    anchored: BTreeMap<Option<Arc<str>>, BTreeSet<RouteIndex>>,
    /// Routes that nobody holds.
    unheld: BTreeSet<RouteIndex>,
    last_route: u64,
}

/// Workers.
impl LabelIndex {
    /// The next worker; it is on no shelf. Returns the routes whose builds have other kinds from now on.
    pub(super) fn add_worker(&mut self, labels: Labels, space: Space) -> Vec<RouteIndex> {
        let index = match self.class_of.get(&labels) {
            Some(&class) => class,
            None => self.add_class(labels),
        };
        let worker = WorkerIndex(u32::try_from(self.on_shelf.len()).expect("fewer than 2^32 workers"));
        self.class_of_worker.push(index);
        self.on_shelf.push(None);
        self.shares.push(Vec::new());
        self.obstacles.push(None);
        self.groups.push(None);
        let class = &mut self.classes[index.0 as usize];
        class.workers.count(space);
        let speaks = if let Space::Said(driver) = space { Some(driver) } else { None };
        speaks.into_iter().for_each(|driver| _ = class.speakers.entry(driver).or_insert(worker));
        let mut changed = Vec::new();
        for index in &class.routes {
            let route = self.routes.get_mut(index).expect("a class names only routes that exist");
            let before = route.workers.shape();
            route.workers.count(space);
            speaks.into_iter().for_each(|driver| _ = route.speakers.entry(driver).or_insert(worker));
            if route.workers.shape() != before {
                changed.push(*index);
            }
        }
        changed
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
                route.add_class(index, &class, &self.shares);
                class.routes.insert(*route_index);
            }
        }
        self.classes.push(class);
        self.class_of.insert(labels, index);
        index
    }

    fn class(&self, worker: WorkerIndex) -> &Class {
        &self.classes[self.class_of_worker[worker.0 as usize].0 as usize]
    }

    pub(super) fn labels(&self, worker: WorkerIndex) -> &Labels {
        &self.class(worker).labels
    }

    /// The routes that the worker fits.
    pub(super) fn routes_of(&self, worker: WorkerIndex) -> impl Iterator<Item = RouteIndex> {
        self.class(worker).routes.iter().copied()
    }

    pub(super) fn fits(&self, worker: WorkerIndex, route: RouteIndex) -> bool {
        self.class(worker).routes.contains(&route)
    }

    /// Puts the worker on a shelf, or on none.
    pub(super) fn set_shelf(&mut self, worker: WorkerIndex, shelf: Option<(Shelf, u64)>) {
        let old = std::mem::replace(&mut self.on_shelf[worker.0 as usize], shelf);
        if old == shelf {
            return;
        }
        if let Some((shelf, key)) = old {
            self.change_shelf(worker, shelf, |turns| turns.remove(&Turn { key, worker }));
        }
        if let Some((shelf, key)) = shelf {
            self.change_shelf(worker, shelf, |turns| turns.insert(Turn { key, worker }));
        }
    }

    fn change_shelf(&mut self, worker: WorkerIndex, shelf: Shelf, change: impl FnOnce(&mut SortedSet<Turn>) -> bool) {
        let class = &mut self.classes[self.class_of_worker[worker.0 as usize].0 as usize];
        let turns = &mut class.shelves[shelf as usize];
        let before = turns.first().copied();
        change(turns);
        let after = turns.first().copied();
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
        }
    }

    /// Notes what stands in the way of builds on this worker.
    pub(super) fn set_obstacle(&mut self, worker: WorkerIndex, obstacle: ObstacleReason) {
        let old = self.obstacles[worker.0 as usize].replace(obstacle);
        if old == Some(obstacle) {
            return;
        }
        let class = &mut self.classes[self.class_of_worker[worker.0 as usize].0 as usize];
        if let Some(old) = old {
            class.obstacles[old as usize].remove(&worker);
        }
        class.obstacles[obstacle as usize].insert(worker);
    }

    /// Notes what could be had of the worker.
    pub(super) fn set_group(&mut self, worker: WorkerIndex, group: Group) {
        let old = self.groups[worker.0 as usize].replace(group);
        if old == Some(group) {
            return;
        }
        let class = &mut self.classes[self.class_of_worker[worker.0 as usize].0 as usize];
        if let Some(old) = old
            && let Some(workers) = class.groups.get_mut(&old)
        {
            workers.remove(&worker);
            if workers.is_empty() {
                class.groups.remove(&old);
            }
        }
        class.groups.entry(group).or_default().insert(worker);
    }

    /// The workers of this route.
    pub(super) fn groups(&self, route: RouteIndex) -> impl Iterator<Item = (Group, &SortedSet<WorkerIndex>)> {
        let classes = self.routes[&route].classes.iter().map(|class| &self.classes[class.0 as usize]);
        classes.flat_map(|class| class.groups.iter().map(|(group, workers)| (*group, workers)))
    }

    /// What stands in the way of builds of this route, on how many workers, and one of these.
    pub(super) fn obstacles(&self, route: RouteIndex) -> Vec<(ObstacleReason, usize, WorkerIndex)> {
        let classes = || self.routes[&route].classes.iter().map(|class| &self.classes[class.0 as usize]);
        let of_reason = |reason: ObstacleReason| {
            let workers = classes().map(|class| class.obstacles[reason as usize].len()).sum();
            let example = classes().find_map(|class| class.obstacles[reason as usize].first())?;
            Some((reason, workers, *example))
        };
        ObstacleReason::ALL.into_iter().filter_map(of_reason).collect()
    }

    /// What the worker's instance contributes to the supply of one kind. Returns whether that has changed.
    pub(super) fn set_share(&mut self, worker: WorkerIndex, kind: KindId, share: Share) -> bool {
        let class = &mut self.classes[self.class_of_worker[worker.0 as usize].0 as usize];
        let turn = class.turn(worker);
        let shares = &mut self.shares[worker.0 as usize];
        let position = shares.binary_search_by_key(&kind, |(kind, _)| *kind);
        let old = position.map_or(Share::default(), |position| shares[position].1);
        if old == share {
            return false;
        }
        match position {
            Ok(position) if share != Share::default() => shares[position].1 = share,
            Ok(position) => {
                shares.remove(position);
                if shares.is_empty() {
                    class.suppliers.remove(&worker);
                }
            }
            Err(position) => {
                shares.insert(position, (kind, share));
                class.suppliers.insert(worker);
            }
        }
        for index in &class.routes {
            let route = self.routes.get_mut(index).expect("a class names only routes that exist");
            route.contribute(kind, turn, old, share);
        }
        true
    }

    /// What the worker contributes, by kind.
    pub(super) fn shares_of(&self, worker: WorkerIndex) -> &[(KindId, Share)] {
        &self.shares[worker.0 as usize]
    }
}

/// Routes.
impl LabelIndex {
    /// The route for builds that need these labels, held once more; `None` when no worker fits.
    pub(super) fn hold_route(&mut self, needed: &Labels) -> Option<RouteIndex> {
        let index = match self.route_of.get(needed) {
            Some(&index) => index,
            None => self.add_route(needed)?,
        };
        self.unheld.remove(&index);
        self.route_mut(index).holders += 1;
        Some(index)
    }

    /// The route is held once less.
    pub(super) fn release_route(&mut self, index: RouteIndex) {
        let route = self.route_mut(index);
        route.holders -= 1;
        if route.holders == 0 {
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
            route.add_class(class_index, class, &self.shares);
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

    pub(super) fn needed(&self, route: RouteIndex) -> &Labels {
        &self.routes[&route].needed
    }

    /// How many workers fit.
    pub(super) fn workers(&self, route: RouteIndex) -> Census {
        self.routes[&route].workers
    }

    /// How many drivers that say kinds have a worker that fits.
    pub(super) fn speakers(&self, route: RouteIndex) -> usize {
        self.routes[&route].speakers.len()
    }

    /// A worker of this driver that fits, if the driver says kinds.
    pub(super) fn speaker(&self, route: RouteIndex, driver: u32) -> Option<WorkerIndex> {
        self.routes[&route].speakers.get(&driver).copied()
    }

    pub(super) fn supply(&self, route: RouteIndex, kind: KindId) -> Option<&Supply> {
        self.routes[&route].supply.get(&kind)
    }

    /// The first worker on `shelf` that fits the route and is accepted. Looks at those that are not, and at one more.
    pub(super) fn first(
        &self,
        route: RouteIndex,
        shelf: Shelf,
        mut accepted: impl FnMut(WorkerIndex) -> bool,
    ) -> Option<WorkerIndex> {
        let mut best: Option<Turn> = None;
        for &head in self.routes[&route].heads[shelf as usize].iter() {
            // Heads come in order, and nothing in a class comes before its head.
            if best.is_some_and(|best| best < head) {
                break;
            }
            let of_class = &self.class(head.worker).shelves[shelf as usize];
            let found = of_class.iter().copied().find(|turn| accepted(turn.worker));
            best = best.into_iter().chain(found).min();
        }
        best.map(|turn| turn.worker)
    }

    /// Why no worker offers all of `needed`, for people.
    pub(super) fn why_nobody_fits(&self, needed: &Labels) -> String {
        if self.class_of_worker.is_empty() {
            return "no worker has been added".to_owned();
        }
        let missing: Vec<_> = needed.iter().filter(|label| !self.having.contains_key(*label)).collect();
        match missing.as_slice() {
            [] => "each label is offered, but no single worker offers all of them".to_owned(),
            missing => {
                let missing: Vec<String> = missing.iter().map(|label| format!("{label:?}")).collect();
                format!("no worker offers {}", missing.join(" or "))
            }
        }
    }
}

#[cfg(test)]
impl LabelIndex {
    /// Panics unless every route is as what its workers say makes it. `of`: the shelf and the shares of each worker;
    /// `held`: the routes of all needs.
    #[allow(clippy::type_complexity)]
    pub(super) fn check(&self, of: &[(Option<(Shelf, u64)>, BTreeMap<KindId, Share>)], held: &[RouteIndex]) {
        for (number, (shelf, shares)) in of.iter().enumerate() {
            let worker = WorkerIndex(number as u32);
            assert_eq!(self.on_shelf[number], *shelf, "the shelf of {worker:?}");
            let known: BTreeMap<KindId, Share> = self.shares[number].iter().copied().collect();
            assert_eq!(known, *shares, "the shares of {worker:?}");
            assert_eq!(self.class(worker).suppliers.iter().any(|of| *of == worker), !shares.is_empty());
        }
        let mut unheld = BTreeSet::new();
        for (&index, route) in self.routes.iter() {
            assert_eq!(route.holders, held.iter().filter(|holder| **holder == index).count());
            if route.holders == 0 {
                unheld.insert(index);
            }
            let mut expected = Route { holders: route.holders, ..Route::default() };
            for (number, class) in self.classes.iter().enumerate() {
                let fits = class.labels.contains_all(&route.needed);
                assert_eq!(class.routes.contains(&index), fits);
                if fits {
                    expected.classes.insert(ClassIndex(number as u32));
                }
            }
            for (number, (_, shares)) in of.iter().enumerate() {
                let worker = WorkerIndex(number as u32);
                for (&kind, &share) in shares.iter().filter(|_| self.fits(worker, index)) {
                    expected.contribute(kind, self.class(worker).turn(worker), Share::default(), share);
                }
            }
            assert_eq!(route.classes, expected.classes);
            assert_eq!(route.supply, expected.supply, "the supply of {index:?}");
            for shelf in SHELVES {
                let firsts = expected.classes.iter().filter_map(|class| {
                    let on_shelf = of.iter().enumerate().filter_map(|(number, (on, _))| {
                        let worker = WorkerIndex(number as u32);
                        let (_, key) = on.filter(|(on, _)| *on == shelf)?;
                        (self.class_of_worker[number] == *class).then_some(Turn { key, worker })
                    });
                    on_shelf.min()
                });
                assert_eq!(route.heads[shelf as usize], firsts.collect(), "the heads of {shelf:?} of {index:?}");
            }
        }
        assert_eq!(self.unheld, unheld);
    }
}
