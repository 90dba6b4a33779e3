//! The addresses of the engine's host.
//!
//! The system's look-up of a name cannot be interrupted, so a thread waits for it. There is one such thread at most for
//! an engine; whoever needs the answer waits for it as long as its call may. An answer is used until a connection fails.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, OnceLock};
use std::thread;

use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;

use super::watch::Watch;

#[derive(Debug, Default)]
pub(super) struct Names {
    lookup: Mutex<Option<Lookup>>,
}

#[derive(Clone, Debug)]
struct Lookup {
    /// Disconnected when it is over.
    over: Receiver<Infallible>,
    answer: Arc<OnceLock<Result<Vec<SocketAddr>, String>>>,
}

impl Names {
    pub(super) fn addresses(&self, host: &str, port: u16, watch: &Watch) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let lookup = self.lookup.lock().get_or_insert_with(|| Lookup::begin(host, port)).clone();
        while lookup.answer.get().is_none() {
            let tick = watch.may_wait()?;
            // Nothing is ever sent: this is a time-out, or the end.
            if lookup.over.recv_timeout(tick).is_err_and(|error| error.is_disconnected()) {
                break;
            }
        }
        match lookup.answer.get() {
            Some(Ok(addresses)) => Ok(addresses.clone()),
            Some(Err(error)) => {
                self.forget();
                Err(io::Error::other(error.clone()))
            }
            None => {
                self.forget();
                Err(io::Error::other("there is no thread for looking up the name of the host"))
            }
        }
    }

    /// The next call looks again; one that is under way will do.
    pub(super) fn forget(&self) {
        self.lookup.lock().take_if(|lookup| lookup.answer.get().is_some() || lookup.is_over());
    }
}

impl Lookup {
    fn begin(host: &str, port: u16) -> Self {
        let (ends, over) = bounded(0);
        let answer = Arc::new(OnceLock::new());
        let (host, place) = (host.to_owned(), answer.clone());
        // Without a thread there is no answer either.
        let _ = thread::Builder::new().name("docker-lookup".into()).spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs();
            let _ = place.set(found.map(Iterator::collect).map_err(|error| error.to_string()));
            drop::<crossbeam_channel::Sender<Infallible>>(ends);
        });
        Self { over, answer }
    }

    fn is_over(&self) -> bool {
        super::patience::is_cancelled(&self.over)
    }
}
