//! Needs, the lines that they share, and what drivers say of them.

use super::*;

impl Builds {
    const FEW: usize = 16;

    fn insert(&mut self, build: BuildId) {
        match self {
            Self::Few(builds) if builds.len() < Self::FEW => builds.push(build),
            Self::Few(builds) => *self = Self::Many(builds.len() as u32 + 1),
            Self::Many(builds) => *builds += 1,
        }
    }

    /// Returns whether it was the last one.
    fn remove(&mut self, build: BuildId) -> bool {
        match self {
            Self::Few(builds) => {
                builds.retain(|other| *other != build);
                builds.is_empty()
            }
            Self::Many(1) => {
                *self = Self::Few(Vec::new());
                true
            }
            Self::Many(builds) => {
                *builds -= 1;
                false
            }
        }
    }
}

impl Queue {
    pub(in crate::placement) fn need(&self, need: NeedIndex) -> &Need {
        self.needs.get(need.0)
    }

    pub(in crate::placement) fn line(&self, line: LineIndex) -> &Line {
        self.lines.get(line.0)
    }

    pub(in crate::placement) fn line_of_need(&self, need: NeedIndex) -> LineIndex {
        self.need(need).line
    }

    /// All lines.
    pub(in crate::placement) fn lines(&self) -> impl Iterator<Item = LineIndex> {
        (0..self.lines.entries.len() as u32).map(LineIndex).filter(|line| self.lines.entries[line.0 as usize].is_some())
    }

    /// The lines that instances of this kind can serve.
    pub(in crate::placement) fn lines_of(&self, kind: KindId) -> impl Iterator<Item = LineIndex> {
        self.lines_of.get(&kind).into_iter().flatten().copied()
    }

    /// The plan has to look at the lines that instances of this kind can serve.
    pub(in crate::placement) fn touch_lines_of(&mut self, kind: KindId) {
        if self.nobody_waits() {
            return;
        }
        let lines = self.lines_of.get(&kind).into_iter().flatten();
        self.touched.extend(lines.filter(|line| !self.lines.get(line.0).waiting.is_empty()));
    }

    /// The needs that share a route.
    pub(in crate::placement) fn needs_of(&self, route: RouteIndex) -> impl Iterator<Item = NeedIndex> {
        self.needs_of.get(&route).into_iter().flatten().copied()
    }

    pub(in crate::placement) fn all_needs(&self) -> Vec<NeedIndex> {
        self.needs_of.values().flatten().copied().filter(|need| self.spare != Some(*need)).collect()
    }

    /// The need of a new build, if the build before had the same one.
    pub(in crate::placement) fn recent_need(&self, build: &Build, labels: &LabelIndex) -> Option<NeedIndex> {
        let index = self.recent?;
        let need = self.needs.get(index.0);
        let same_properties = need.properties.as_ref().is_none_or(|properties| properties == build.properties());
        if !same_properties || labels.needed(need.route) != build.labels() {
            return None;
        }
        Some(index)
    }

    /// The need of a build that is about to have it. `route` was held for it.
    pub(in crate::placement) fn need_of(
        &mut self,
        route: RouteIndex,
        build: &Build,
        labels: &mut LabelIndex,
        kinds: &mut Kinds,
    ) -> NeedIndex {
        let census = labels.workers(route);
        let properties = (census.asked + census.said > 0).then(|| build.properties().clone());
        if let Some(&need) = self.need_index.get(&(route, properties.clone())) {
            labels.release_route(route); // the need holds it already
            return need;
        }
        let asked = (census.asked > 0).then(|| kinds.hold_asked(build.properties()));
        let line = self.hold_line(route, &kinds_of(census.any > 0, asked, &BTreeMap::new()), kinds);
        let key = (route, properties.clone());
        let builds = Builds::Few(Vec::new());
        let need = Need { route, properties, asked, said: BTreeMap::new(), line, builds };
        let need = NeedIndex(self.needs.insert(need));
        self.need_index.insert(key, need);
        self.needs_of.entry(route).or_default().insert(need);
        need
    }

    /// The build has this need.
    pub(super) fn hold_need(&mut self, index: NeedIndex, build: BuildId) {
        self.needs.get_mut(index.0).builds.insert(build);
        self.spare.take_if(|spare| *spare == index);
    }

    pub(super) fn release_need(
        &mut self,
        index: NeedIndex,
        build: BuildId,
        labels: &mut LabelIndex,
        kinds: &mut Kinds,
    ) {
        let need = self.needs.get_mut(index.0);
        if !need.builds.remove(build) {
            return;
        }
        let unused = if need.said.is_empty() { self.spare.replace(index) } else { Some(index) };
        unused.into_iter().for_each(|unused| self.remove_need(unused, labels, kinds));
    }

    /// No build has this need.
    pub(super) fn remove_need(&mut self, index: NeedIndex, labels: &mut LabelIndex, kinds: &mut Kinds) {
        let need = self.needs.remove(index.0);
        self.recent.take_if(|recent| *recent == index);
        self.need_index.remove(&(need.route, need.properties));
        if let Some(needs) = self.needs_of.get_mut(&need.route) {
            needs.remove(&index);
            if needs.is_empty() {
                self.needs_of.remove(&need.route);
            }
        }
        self.release_line(need.line, kinds);
        for (&driver, said) in &need.said {
            self.forget_question(index, driver, said);
        }
        let said = need.said.values().filter_map(|said| if let Said::Kind(kind) = said { Some(*kind) } else { None });
        for kind in need.asked.into_iter().chain(said) {
            kinds.release(kind);
        }
        labels.release_route(need.route);
    }

    fn hold_line(&mut self, route: RouteIndex, of: &Arc<[KindId]>, kinds: &mut Kinds) -> LineIndex {
        if let Some(&line) = self.line_of.get(&(route, of.clone())) {
            self.lines.get_mut(line.0).needs += 1;
            return line;
        }
        let line = Line::new(route, of.clone());
        let line = LineIndex(self.lines.insert(line));
        self.line_of.insert((route, of.clone()), line);
        for &kind in of.iter() {
            kinds.hold(kind);
            self.lines_of.entry(kind).or_default().insert(line);
        }
        line
    }

    fn release_line(&mut self, index: LineIndex, kinds: &mut Kinds) {
        let line = self.lines.get_mut(index.0);
        line.needs -= 1;
        if line.needs > 0 {
            return;
        }
        let line = self.lines.remove(index.0);
        debug_assert!(line.waiting.is_empty(), "a line without needs has no builds");
        self.touched.remove(&index);
        line.watched.into_iter().for_each(|at| _ = self.watched.remove(&(at, index)));
        self.gone.push(index);
        self.line_of.remove(&(line.route, line.kinds.clone()));
        for &kind in line.kinds.iter() {
            if let Some(lines) = self.lines_of.get_mut(&kind) {
                lines.remove(&index);
                if lines.is_empty() {
                    self.lines_of.remove(&kind);
                }
            }
            kinds.release(kind);
        }
    }

    /// The question for the kind of this need is out.
    pub(in crate::placement) fn asks(&mut self, need: NeedIndex, driver: u32, overdue_at: Option<Instant>) {
        self.needs.get_mut(need.0).said.insert(driver, Said::Asked { overdue_at });
        self.questions.extend(overdue_at.map(|at| (at, need, driver)));
    }

    fn forget_question(&mut self, need: NeedIndex, driver: u32, said: &Said) {
        if let Said::Asked { overdue_at: Some(at) } = said {
            self.questions.remove(&(*at, need, driver));
        }
    }

    /// A driver has said what kind the need asks for. The kind is held for the need.
    pub(in crate::placement) fn said(
        &mut self,
        index: NeedIndex,
        driver: u32,
        said: Said,
        any: bool,
        kinds: &mut Kinds,
    ) {
        let need = self.needs.get_mut(index.0);
        let before = need.said.insert(driver, said);
        let (route, old) = (need.route, need.line);
        let of = kinds_of(any, need.asked, &need.said);
        before.into_iter().for_each(|before| self.forget_question(index, driver, &before));
        let new = self.hold_line(route, &of, kinds);
        if new != old {
            let moved = self.in_line_of(index);
            for &rank in &moved {
                self.leave_line(old, rank, false);
            }
            self.needs.get_mut(index.0).line = new;
            for rank in moved {
                self.join_line(new, rank);
            }
        }
        self.release_line(old, kinds);
        self.touched.insert(new);
    }

    /// The builds of a need that are in its line.
    fn in_line_of(&self, index: NeedIndex) -> Vec<Rank> {
        let need = self.need(index);
        let line = &self.line(need.line).waiting;
        match &need.builds {
            Builds::Few(builds) => {
                let ranks = builds.iter().map(|id| self.builds[id].rank(*id));
                ranks.filter(|rank| line.contains(rank)).collect()
            }
            Builds::Many(_) => line.iter().copied().filter(|rank| self.builds[&rank.build].need == index).collect(),
        }
    }

    /// The need of these properties on this route, if a build has it.
    pub(in crate::placement) fn find_need(&self, route: RouteIndex, properties: &Properties) -> Option<NeedIndex> {
        self.need_index.get(&(route, Some(properties.clone()))).copied()
    }
}

/// The kinds that can serve a need, sorted.
pub(super) fn kinds_of(any: bool, asked: Option<KindId>, said: &BTreeMap<u32, Said>) -> Arc<[KindId]> {
    let said = said.values().filter_map(|said| if let Said::Kind(kind) = said { Some(*kind) } else { None });
    let mut kinds: Vec<KindId> = any.then_some(ANY).into_iter().chain(asked).chain(said).collect();
    kinds.sort_unstable();
    kinds.into()
}
