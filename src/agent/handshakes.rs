//! The connections that have not logged in: how many may be open, and which of them is closed to make room for a new
//! one. Pure.
//!
//! Before they have logged in, strangers cannot be distinguished from agents, except by their addresses. The limit is
//! therefore shared between addresses first: the address with the most open handshakes loses the one that has
//! progressed the least. An address that floods the listener only hinders itself. Many agents behind one address work
//! as well: the limit grows with the number of expected agents, and an address loses nothing while it has no more than
//! its fair share.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};

/// The most open handshakes, however many agents are expected: each handshake has a thread.
pub(super) const MOST: usize = 4096;

/// Returns how many handshakes may be open; `base` if no agent is expected. The limit grows by two for each expected
/// agent, one of them for a stranger, so that a flood from one address leaves enough for agents that all come from
/// another address.
pub(super) fn limit(base: usize, expected_agents: usize) -> usize {
    base.saturating_add(expected_agents.saturating_mul(2)).min(MOST.max(base))
}

/// How far a handshake has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Progress {
    /// It has not sent a byte.
    Silent,
    /// It has sent something.
    Speaks,
    /// It has agreed on keys.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "connections in the clear have no keys"))]
    Encrypted,
}

/// The open handshakes, with a `T` for each of them.
pub(super) struct Handshakes<T> {
    /// By number, so that the oldest comes first.
    open: BTreeMap<u64, Open<T>>,
    /// How many handshakes of each origin are open.
    by_origin: HashMap<Origin, usize>,
}

struct Open<T> {
    origin: Origin,
    progress: Progress,
    kept: T,
}

/// What counts as one peer: an IPv4 address, or a /64 network of IPv6, in which a peer can use any address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct Origin(IpAddr);

impl Origin {
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            address => address,
        })
    }
}

impl<T> Handshakes<T> {
    pub(super) fn new() -> Self {
        Self { open: BTreeMap::new(), by_origin: HashMap::new() }
    }

    /// Adds a handshake with a number that is larger than all before. Returns the handshakes that the caller must close
    /// so that at most `limit` are open. The new one is never among them.
    pub(super) fn add(&mut self, number: u64, address: IpAddr, kept: T, limit: usize) -> Vec<T> {
        let origin = Origin::of(address);
        *self.by_origin.entry(origin).or_default() += 1;
        self.open.insert(number, Open { origin, progress: Progress::Silent, kept });
        let mut gone = Vec::new();
        while self.open.len() > limit.max(1) {
            gone.extend(self.makes_room(number).and_then(|other| self.remove(other)));
        }
        gone
    }

    /// Returns the handshake that has progressed the least, and the oldest of several, among the origins with the most
    /// handshakes.
    fn makes_room(&self, newest: u64) -> Option<u64> {
        let most = self.by_origin.values().max()?;
        let others = self.open.iter().filter(|(number, _)| **number != newest);
        let candidates = others.filter(|(_, open)| self.by_origin[&open.origin] == *most);
        candidates.min_by_key(|(number, open)| (open.progress, **number)).map(|(number, _)| *number)
    }

    pub(super) fn has_come(&mut self, number: u64, progress: Progress) {
        if let Some(open) = self.open.get_mut(&number) {
            open.progress = progress;
        }
    }

    /// Removes a handshake that has ended or must be closed.
    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let Open { origin, kept, .. } = self.open.remove(&number)?;
        if let Some(count) = self.by_origin.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                self.by_origin.remove(&origin);
            }
        }
        Some(kept)
    }

    /// Removes all handshakes.
    pub(super) fn take_all(&mut self) -> Vec<T> {
        self.by_origin.clear();
        std::mem::take(&mut self.open).into_values().map(|open| open.kept).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u8) -> IpAddr {
        Ipv4Addr::new(127, 0, 0, number).into()
    }

    #[test]
    fn a5_an_address_that_floods_gets_in_its_own_way() {
        let mut handshakes = Handshakes::new();
        assert!(handshakes.add(0, address(1), 0, 8).is_empty());
        for number in 1..1000 {
            let gone = handshakes.add(number, address(2), number, 8);
            assert!(!gone.contains(&0));
            assert!(handshakes.open.len() <= 8);
        }
    }

    #[test]
    fn a5_of_one_address_the_one_that_has_come_least_far_goes() {
        let mut handshakes = Handshakes::new();
        for number in 0..3 {
            handshakes.add(number, address(1), number, 3);
        }
        handshakes.has_come(0, Progress::Encrypted);
        handshakes.has_come(1, Progress::Speaks);
        assert_eq!(handshakes.add(3, address(1), 3, 3), [2]);
        handshakes.has_come(3, Progress::Encrypted);
        assert_eq!(handshakes.add(4, address(1), 4, 3), [1]);
        handshakes.has_come(4, Progress::Encrypted);
        assert_eq!(handshakes.add(5, address(1), 5, 3), [0], "the oldest of those that have come as far");
    }

    #[test]
    fn a_network_of_ipv6_is_one_origin_and_a_mapped_address_is_that_of_ipv4() {
        let origin = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::2:3:4:5"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
        assert_eq!(origin("::ffff:10.0.0.1"), origin("10.0.0.1"));
        assert_ne!(origin("10.0.0.1"), origin("10.0.0.2"));
    }

    #[test]
    fn the_limit_grows_with_the_agents_that_are_expected_and_is_bounded() {
        assert_eq!((limit(64, 0), limit(64, 500)), (64, 1064));
        assert_eq!((limit(64, usize::MAX), limit(10_000, 5)), (MOST, 10_000));
    }

    /// Whatever comes: the limit holds, the new one stays, and no origin within its fair share loses anything.
    #[test]
    fn a5_no_origin_loses_within_its_fair_share() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut handshakes, origins) = (Handshakes::new(), random.u8(1..6));
            for number in 0..200 {
                let limit = random.usize(1..20);
                // One address is the most eager.
                let from = if random.bool() { 0 } else { random.u8(0..origins) };
                let before: HashMap<u64, (Origin, Progress)> =
                    handshakes.open.iter().map(|(number, open)| (*number, (open.origin, open.progress))).collect();
                let mut counts = handshakes.by_origin.clone();
                *counts.entry(Origin::of(address(from))).or_default() += 1;
                let gone = handshakes.add(number, address(from), number, limit);
                assert!(handshakes.open.len() <= limit && handshakes.open.contains_key(&number), "seed {seed}");
                let share = limit / counts.len();
                for other in gone {
                    let (origin, progress) = before[&other];
                    // It may lose several when the limit has shrunk, and keeps its share.
                    let left = handshakes.by_origin.get(&origin).copied().unwrap_or_default();
                    assert!(counts[&origin] > share && left >= share, "seed {seed}");
                    let kept = handshakes.open.values().filter(|open| open.origin == origin);
                    let newcomer = |open: &&Open<u64>| open.kept != number;
                    assert!(kept.filter(newcomer).all(|open| open.progress >= progress), "seed {seed}");
                }
                let total: usize = handshakes.by_origin.values().sum();
                assert_eq!(total, handshakes.open.len());
                match random.u8(..4) {
                    0 => handshakes.has_come(random.u64(0..=number), Progress::Speaks),
                    1 => _ = handshakes.remove(random.u64(0..=number)),
                    _ => {}
                }
            }
            let left = handshakes.open.len();
            assert_eq!((handshakes.take_all().len(), handshakes.open.len()), (left, 0));
        }
    }
}
