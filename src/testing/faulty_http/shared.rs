//! What the threads of a proxy have in common: the rules, what was seen, and the sockets that a drop shuts.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::rule::{HttpRule, Uses};
use super::upstream::{Address, Upstream};

const MOST_CONNECTIONS: usize = 256;
const REQUESTS_KEPT: usize = 10_000;

pub(super) struct Shared {
    pub(super) server: Address,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    rules: Vec<Arc<ActiveRule>>,
    requests: VecDeque<String>,
    request_count: u64,
    /// By number. Those of the server's side come when there is one.
    connections: BTreeMap<u64, (TcpStream, Option<Upstream>)>,
    next_connection: u64,
    /// Of connections, and the acceptor.
    threads: usize,
    closed: bool,
}

/// A rule in force.
pub(super) struct ActiveRule {
    rule: HttpRule,
    uses: Mutex<Uses>,
    removed: AtomicBool,
    waiters: Mutex<Waiters>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiters {
    removed: bool,
    /// Cut when the rule is taken away.
    hung: Vec<TcpStream>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ActiveRule {
    pub(super) fn rule(&self) -> &HttpRule {
        &self.rule
    }

    pub(super) fn used(&self) -> u64 {
        lock(&self.uses).used
    }

    /// Waits for this long, or until the rule is taken away.
    pub(super) fn pause(&self, time: Duration) {
        let waiters = lock(&self.waiters);
        drop(self.changed.wait_timeout_while(waiters, time, |waiters| !waiters.removed));
    }

    /// Has this socket cut when the rule is taken away.
    pub(super) fn hang(&self, socket: &TcpStream) {
        let mut waiters = lock(&self.waiters);
        if waiters.removed {
            _ = socket.shutdown(Shutdown::Both);
        } else if let Ok(socket) = socket.try_clone() {
            waiters.hung.push(socket);
        }
    }

    fn remove(&self) {
        self.removed.store(true, Ordering::SeqCst);
        let mut waiters = lock(&self.waiters);
        waiters.removed = true;
        waiters.hung.drain(..).for_each(|socket| _ = socket.shutdown(Shutdown::Both));
        self.changed.notify_all();
    }
}

impl Shared {
    pub(super) fn new(server: Address) -> Self {
        // The acceptor.
        Self { server, inner: Mutex::new(Inner { threads: 1, ..Inner::default() }), changed: Condvar::new() }
    }

    pub(super) fn add_rule(&self, rule: HttpRule) -> Arc<ActiveRule> {
        let active = Arc::new(ActiveRule {
            rule,
            uses: Mutex::default(),
            removed: AtomicBool::new(false),
            waiters: Mutex::default(),
            changed: Condvar::new(),
        });
        lock(&self.inner).rules.push(active.clone());
        active
    }

    pub(super) fn remove_rule(&self, rule: &Arc<ActiveRule>) {
        lock(&self.inner).rules.retain(|other| !Arc::ptr_eq(other, rule));
        rule.remove();
    }

    pub(super) fn clear_rules(&self) {
        let rules = std::mem::take(&mut lock(&self.inner).rules);
        rules.iter().for_each(|rule| rule.remove());
    }

    /// A request has come: it is noted, and the rule that is for it is told.
    pub(super) fn request(&self, method: &str, target: &str) -> Option<Arc<ActiveRule>> {
        let path = target.split('?').next().unwrap_or_default();
        let rules = {
            let mut inner = lock(&self.inner);
            inner.request_count += 1;
            if inner.requests.len() == REQUESTS_KEPT {
                inner.requests.pop_front();
            }
            inner.requests.push_back(format!("{method} {path}"));
            inner.rules.clone()
        };
        // The closure of a rule is the test's own code.
        let fits = |active: &&Arc<ActiveRule>| {
            active.rule.fits(method, target)
                && !active.removed.load(Ordering::SeqCst)
                && lock(&active.uses).next(active.rule.skip, active.rule.times)
        };
        rules.iter().find(fits).cloned()
    }

    pub(super) fn requests(&self) -> Vec<String> {
        lock(&self.inner).requests.iter().cloned().collect()
    }

    pub(super) fn request_count(&self) -> u64 {
        lock(&self.inner).request_count
    }

    /// Waits for room for one more connection; its number. `None` when the proxy is closed.
    pub(super) fn open(&self, client: TcpStream) -> Option<u64> {
        let mut inner = lock(&self.inner);
        while inner.connections.len() >= MOST_CONNECTIONS && !inner.closed {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        if inner.closed {
            return None;
        }
        let number = inner.next_connection;
        inner.next_connection += 1;
        inner.connections.insert(number, (client, None));
        Some(number)
    }

    /// The connection has a side to the server now. False when the proxy is closed.
    pub(super) fn connected(&self, number: u64, upstream: Upstream) -> bool {
        match lock(&self.inner).connections.get_mut(&number) {
            Some(connection) => {
                connection.1 = Some(upstream);
                true
            }
            None => false,
        }
    }

    pub(super) fn ended(&self, number: u64) {
        lock(&self.inner).connections.remove(&number);
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.inner).closed
    }

    pub(super) fn thread_begins(&self) {
        lock(&self.inner).threads += 1;
    }

    pub(super) fn thread_ends(&self) {
        lock(&self.inner).threads -= 1;
        self.changed.notify_all();
    }

    /// Everything that waits is woken: all sockets are shut.
    pub(super) fn close(&self) {
        let connections = {
            let mut inner = lock(&self.inner);
            inner.closed = true;
            std::mem::take(&mut inner.connections)
        };
        self.changed.notify_all();
        self.clear_rules();
        for (client, upstream) in connections.into_values() {
            _ = client.shutdown(Shutdown::Both);
            if let Some(upstream) = upstream {
                upstream.shutdown(Shutdown::Both);
            }
        }
    }

    pub(super) fn wait_until_all_threads_end(&self, limit: Duration) -> bool {
        let inner = lock(&self.inner);
        let waited = self.changed.wait_timeout_while(inner, limit, |inner| inner.threads > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.threads == 0
    }
}
