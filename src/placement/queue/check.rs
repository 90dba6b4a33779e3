//! Whether every index of the queue is as its builds make it; for tests.

use super::needs::kinds_of;
use super::*;

impl Queue {
    /// Panics unless every index is as the builds make it.
    pub(in crate::placement) fn check(&self, labels: &LabelIndex) {
        let mut waiting: BTreeMap<LineIndex, BTreeSet<Rank>> = BTreeMap::new();
        let mut pauses = BTreeSet::new();
        let mut of_need: BTreeMap<NeedIndex, BTreeSet<BuildId>> =
            self.spare.into_iter().map(|spare| (spare, BTreeSet::new())).collect();
        for (&id, entry) in self.builds.iter() {
            of_need.entry(entry.need).or_default().insert(id);
            let need = self.need(entry.need);
            match entry.place {
                Place::Waiting => _ = waiting.entry(need.line).or_default().insert(entry.rank(id)),
                Place::Paused { until } => _ = pauses.insert((until, id)),
                Place::Leasing { .. } | Place::Running { .. } => {}
                Place::Nowhere => panic!("{id} is nowhere"),
            }
        }
        assert_eq!(self.pauses, pauses);
        let failed = self.builds.iter().filter(|(_, entry)| entry.past.is_some());
        assert_eq!(self.failed, failed.map(|(id, _)| *id).collect());
        assert_eq!(self.waiting, waiting.values().map(BTreeSet::len).sum::<usize>());
        assert_eq!(self.needs.entries.iter().flatten().count(), of_need.len());
        assert_eq!(self.need_index.len(), of_need.len());
        assert_eq!(self.needs_of.values().map(BTreeSet::len).sum::<usize>(), of_need.len());
        let mut needs_of_line = BTreeMap::new();
        for (&index, builds) in &of_need {
            let need = self.need(index);
            match &need.builds {
                Builds::Few(few) => assert_eq!(few.iter().copied().collect::<BTreeSet<_>>(), *builds),
                Builds::Many(many) => assert_eq!(*many as usize, builds.len()),
            }
            assert_eq!(self.need_index.get(&(need.route, need.properties.clone())), Some(&index));
            assert!(self.needs_of[&need.route].contains(&index));
            let any = labels.workers(need.route).any > 0;
            assert_eq!(self.line(need.line).kinds, kinds_of(any, need.asked, &need.said));
            *needs_of_line.entry(need.line).or_insert(0) += 1;
        }
        let asked = of_need.keys().flat_map(|index| {
            let said = self.need(*index).said.iter();
            said.filter_map(|(driver, said)| match said {
                Said::Asked { overdue_at } => overdue_at.map(|at| (at, *index, *driver)),
                _ => None,
            })
        });
        assert_eq!(self.questions, asked.collect());
        assert_eq!(self.lines.entries.iter().flatten().count(), needs_of_line.len());
        assert_eq!(self.line_of.len(), needs_of_line.len());
        let (mut heads, mut unpassed) = (Heads::new(), Heads::new());
        let (mut patient, mut impatient) = (BTreeSet::new(), BTreeSet::new());
        let mut watched = BTreeSet::new();
        for (&index, &needs) in &needs_of_line {
            let line = self.line(index);
            assert_eq!(line.needs, needs);
            assert_eq!(line.waiting, waiting.remove(&index).unwrap_or_default(), "{index:?}");
            for kind in line.kinds.iter() {
                assert!(self.lines_of[kind].contains(&index));
            }
            watched.extend(line.watched.map(|at| (at, index)));
            let Some(&head) = line.waiting.first() else {
                assert_eq!(line.patience, None, "nobody is patient in an empty line");
                continue;
            };
            heads.insert((line.route, head, index));
            match line.patience {
                None if self.impatient.contains(&(head, index)) => _ = impatient.insert((head, index)),
                None => _ = unpassed.insert((line.route, head, index)),
                Some(_) if self.impatient.contains(&(head, index)) => _ = impatient.insert((head, index)),
                Some(until) => _ = patient.insert((until, index)),
            }
        }
        assert_eq!(waiting, BTreeMap::new(), "builds in lines that no need has");
        let kinds: usize = needs_of_line.keys().map(|line| self.line(*line).kinds.len()).sum();
        assert_eq!(self.lines_of.values().map(BTreeSet::len).sum::<usize>(), kinds);
        assert_eq!(self.heads, heads);
        assert_eq!(self.unpassed, unpassed);
        assert_eq!(self.patient, patient);
        assert_eq!(self.impatient, impatient);
        assert_eq!(self.watched, watched);
    }

    /// What holds kinds: needs and lines.
    pub(in crate::placement) fn holders(&self) -> Vec<KindId> {
        let said = |need: &Need| {
            let kinds =
                need.said.values().filter_map(|said| if let Said::Kind(kind) = said { Some(*kind) } else { None });
            kinds.collect::<Vec<_>>()
        };
        let of_needs = self.needs.entries.iter().flatten().flat_map(|need| need.asked.into_iter().chain(said(need)));
        let of_lines = self.lines.entries.iter().flatten().flat_map(|line| line.kinds.iter().copied());
        of_needs.chain(of_lines).collect()
    }

    /// When a line that waits is looked at for progress, and whether it is stalled.
    pub(in crate::placement) fn progress_of(&self, index: LineIndex) -> Option<(Option<Instant>, bool)> {
        let line = self.line(index);
        (!line.waiting.is_empty()).then_some((line.watched, line.stalled))
    }

    /// Of the head of a line: `None` when it was not passed over, otherwise when its patience ends, if it has not ended.
    pub(in crate::placement) fn patience_of(&self, index: LineIndex, rank: Rank) -> Option<Option<Instant>> {
        let line = self.line(index);
        if line.waiting.first() != Some(&rank) {
            return None;
        }
        if self.impatient.contains(&(rank, index)) { Some(None) } else { line.patience.map(Some) }
    }

    /// Whether the build has waited since the patience of its line began.
    pub(in crate::placement) fn is_passed_over(&self, index: LineIndex, rank: Rank) -> bool {
        rank < self.line(index).preferred
    }

    /// The routes that needs hold.
    pub(in crate::placement) fn routes(&self) -> Vec<RouteIndex> {
        self.needs.entries.iter().flatten().map(|need| need.route).collect()
    }
}
