//! Maps and sets in order for entries that come and go all the time. Most of them are small, and those allocate nothing.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::ops::Index;

/// With more entries than this a search among them and making room for one begins to cost.
const FEW: usize = 32;

/// A map in order. Few entries are in a vector that keeps its memory, many in a tree.
#[derive(Clone, Debug)]
pub(crate) struct SortedMap<K, V> {
    /// Sorted. Empty while there are many.
    few: Vec<(K, V)>,
    many: BTreeMap<K, V>,
}

impl<K: Copy + Ord, V> SortedMap<K, V> {
    fn position(&self, key: &K) -> Result<usize, usize> {
        self.few.binary_search_by(|(other, _)| other.cmp(key))
    }

    /// Returns what was there before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if !self.many.is_empty() {
            return self.many.insert(key, value);
        }
        match self.position(&key) {
            Ok(position) => return Some(std::mem::replace(&mut self.few[position].1, value)),
            Err(_) if self.few.len() == FEW => {
                self.many.extend(self.few.drain(..));
                self.many.insert(key, value);
            }
            Err(position) => self.few.insert(position, (key, value)),
        }
        None
    }

    /// Returns what was there.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        if self.many.is_empty() {
            let position = self.position(key).ok()?;
            return Some(self.few.remove(position).1);
        }
        let removed = self.many.remove(key);
        // Not at the number at which they move the other way, so that they do not move all the time.
        if self.many.len() == FEW / 2 {
            self.few.extend(std::mem::take(&mut self.many));
        }
        removed
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        match self.position(key) {
            Ok(position) => Some(&self.few[position].1),
            Err(_) => self.many.get(key),
        }
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self.position(key) {
            Ok(position) => Some(&mut self.few[position].1),
            Err(_) => self.many.get_mut(key),
        }
    }

    pub(super) fn get_or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        if self.get(&key).is_none() {
            self.insert(key, V::default());
        }
        self.get_mut(&key).expect("it is there now")
    }
}

impl<K, V> SortedMap<K, V> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.few.iter().map(|(key, value)| (key, value)).chain(&self.many)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.few.iter_mut().map(|(key, value)| (&*key, value)).chain(&mut self.many)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    pub(crate) fn len(&self) -> usize {
        self.few.len() + self.many.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.few.is_empty() && self.many.is_empty()
    }
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self { few: Vec::new(), many: BTreeMap::new() }
    }
}

impl<K: Copy + Ord, V> Index<&K> for SortedMap<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("the entry exists")
    }
}

/// A set in order.
#[derive(Clone, Eq, PartialEq, Debug)]
pub(super) struct SortedSet<T>(SortedMap<T, ()>);

impl<T: Copy + Ord> SortedSet<T> {
    /// Whether it was not there before.
    pub(super) fn insert(&mut self, value: T) -> bool {
        self.0.insert(value, ()).is_none()
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, value: &T) -> bool {
        self.0.remove(value).is_some()
    }

    pub(super) fn first(&self) -> Option<&T> {
        self.iter().next()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(value, ())| value)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for SortedSet<T> {
    fn default() -> Self {
        Self(SortedMap::default())
    }
}

impl<T: Copy + Ord> Extend<T> for SortedSet<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        values.into_iter().for_each(|value| _ = self.insert(value));
    }
}

impl<T: Copy + Ord> FromIterator<T> for SortedSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut set = Self::default();
        set.extend(values);
        set
    }
}

/// The same entries, wherever they are.
impl<K: PartialEq, V: PartialEq> PartialEq for SortedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<K: Eq, V: Eq> Eq for SortedMap<K, V> {}

impl<T: Copy + Ord + Hash> Hash for SortedSet<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.len().hash(state);
        self.iter().for_each(|value| value.hash(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_a_tree_is_while_it_grows_and_shrinks() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut map, mut tree) = (SortedMap::default(), BTreeMap::new());
        for most in [4_u32, 100, 4, 60, 300, 0] {
            for number in 0..2_000 {
                let key = random.u32(0..=most);
                match random.u32(0..3) {
                    0 => assert_eq!(map.insert(key, number), tree.insert(key, number)),
                    1 => assert_eq!(map.remove(&key), tree.remove(&key)),
                    _ => assert_eq!(map.get_mut(&key), tree.get_mut(&key)),
                }
                assert_eq!((map.len(), map.is_empty(), map.get(&key)), (tree.len(), tree.is_empty(), tree.get(&key)));
                assert!(map.iter().eq(&tree) && map.iter_mut().eq(&mut tree));
            }
            let gone: Vec<u32> = tree.keys().copied().filter(|key| key % 3 > 0).collect();
            gone.iter().for_each(|key| assert_eq!(map.remove(key), tree.remove(key)));
        }
    }

    #[test]
    fn sets_with_the_same_elements_are_equal_wherever_these_are() {
        let few: SortedSet<u32> = (0..20).collect();
        let mut many: SortedSet<u32> = (0..40).collect();
        (20..40).for_each(|value| _ = many.remove(&value));
        assert!(many.0.few.is_empty() && few == many);
    }
}
