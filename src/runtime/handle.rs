//! What a user holds of one worker, and of what was asked of it without the queue.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use super::cell::{Asker, Granted, WorkerCell};
use super::lease::{Holder, Lease, recv_within};
use super::shared::Shared;
use super::threads;
use crate::build::Build;
use crate::error::SubstantiateError;
use crate::event::WorkerStatus;
use crate::lifecycle::{Fit, Input, RequestId, Want};

/// A handle of one worker of a [`Master`](crate::Master). Cheap to clone.
///
/// Builds come to it through the queue of the master. With [`substantiate`](Worker::substantiate) it can be used
/// without the queue as well, by those who have a scheduler of their own; both may be mixed.
///
/// No method blocks.
#[derive(Clone)]
pub struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) cell: Arc<WorkerCell>,
}

impl Worker {
    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.cell.name
    }

    /// Asks for a lease, and for an instance if there is none.
    ///
    /// Refused at once when the worker is paused, in quarantine, full or shut down. An instance that is up but does not
    /// fit the build is replaced when nobody uses it; otherwise the request is refused as incompatible.
    #[doc(alias = "acquire")]
    pub fn substantiate(&self, build: &Build) -> Substantiation<Lease> {
        let fit = if self.cell.may_be_incompatible { Fit::AskOrRecycle } else { Fit::Always };
        let lease = |granted: Granted| {
            granted
                .map(|granted| Lease::new(granted, Holder::Direct(build.clone()), Vec::new()))
                .map_err(|refusal| refusal.error)
        };
        self.request(fit, Want::Lease, |sender| Asker::Direct(sender, build.clone()), lease)
    }

    /// Asks for an instance without a build: the next one finds it warm. Refused like
    /// [`substantiate`](Worker::substantiate), but never because the worker is full.
    #[doc(alias = "prewarm")]
    pub fn warm_up(&self) -> Substantiation<()> {
        let done = |granted: Granted| granted.map(|_| ()).map_err(|refusal| refusal.error);
        self.request(Fit::Always, Want::Instance, Asker::WarmUp, done)
    }

    fn request<T>(
        &self,
        fit: Fit,
        want: Want,
        asker: impl FnOnce(crossbeam_channel::Sender<Result<T, SubstantiateError>>) -> Asker,
        answer: impl FnOnce(Granted) -> Result<T, SubstantiateError>,
    ) -> Substantiation<T> {
        let mut receiver = None;
        let requested = self.cell.turn(&self.shared, |turn| {
            turn.request(fit, want, || {
                let (sender, answers) = bounded(1);
                receiver = Some(answers);
                asker(sender)
            })
        });
        let state = match (requested, receiver) {
            (Ok(request), Some(answers)) => Answer::Awaited { request: Some((self.clone(), request)), answers },
            (Ok(_), None) => unreachable!("a request is kept with its channel"),
            (Err(granted), _) => Answer::Known(answer(granted)),
        };
        Substantiation { state }
    }

    /// Stops the instance, if there is one: after its builds, or at once when `fast`; leases that are out end then, and
    /// `fast` reaches the driver, also when a stop is in flight already
    /// ([`StopRequest::fast`](crate::StopRequest::fast)). Requests that wait are answered with
    /// [`SubstantiateError::Insubstantiated`]. Builds that wait in the queue stay there, and may cause the next start of
    /// this worker: [pause](Worker::pause) it first to keep it down.
    #[doc(alias = "terminate")]
    pub fn insubstantiate(&self, fast: bool) -> Insubstantiation {
        let gone = self.cell.turn(&self.shared, |turn| {
            let gone = turn.inner.gone.get_or_insert_with(|| bounded(0)).1.clone();
            turn.apply(Input::Insubstantiate { fast });
            gone
        });
        Insubstantiation { gone, master: self.shared.number }
    }

    /// Takes no new builds and starts nothing until it is unpaused. Builds that run go on, and so does a start that is under
    /// way; the idle policy still holds. Builds of the queue wait for other workers.
    #[doc(alias = "drain")]
    pub fn pause(&self) {
        self.apply(Input::Pause);
    }

    /// Takes builds again: ends a pause, a quarantine, and the wait until something that was left behind is gone.
    pub fn unpause(&self) {
        self.apply(Input::Unpause);
    }

    fn apply(&self, input: Input) {
        self.cell.turn(&self.shared, |turn| turn.apply(input));
    }

    /// What it is doing, and why.
    pub fn status(&self) -> WorkerStatus {
        self.cell.status(self.shared.clock.now())
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// A request to a worker that has one answer. Dropping it before that cancels the request.
#[must_use = "dropping it cancels the request"]
pub struct Substantiation<T> {
    state: Answer<T>,
}

enum Answer<T> {
    Known(Result<T, SubstantiateError>),
    Awaited {
        /// What was asked of whom; `None` when it was answered at once.
        request: Option<(Worker, RequestId)>,
        answers: Receiver<Result<T, SubstantiateError>>,
    },
    Taken,
}

impl<T> Substantiation<T> {
    /// Blocks until there is an answer: at the latest when the worker's `missing_timeout` is over. When it was taken
    /// already, the error is [`SubstantiateError::Answered`].
    pub fn wait(mut self) -> Result<T, SubstantiateError> {
        self.take(|answers| answers.recv().ok()).unwrap_or(Err(SubstantiateError::Answered))
    }

    /// The answer, if it comes within `timeout`; otherwise the request stays as it is. After the answer was taken
    /// there is no other.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<T, SubstantiateError>> {
        self.take(|answers| recv_within(answers, timeout).ok())
    }

    /// The answer, if it is there. Does not block.
    pub fn try_wait(&mut self) -> Option<Result<T, SubstantiateError>> {
        self.take(|answers| answers.try_recv().ok())
    }

    /// The channel that the answer comes through, for `select!`.
    pub fn receiver(&mut self) -> &Receiver<Result<T, SubstantiateError>> {
        if !matches!(self.state, Answer::Awaited { .. }) {
            let (sender, answers) = bounded(1);
            let known = std::mem::replace(&mut self.state, Answer::Awaited { request: None, answers });
            if let Answer::Known(answer) = known {
                let _ = sender.try_send(answer);
            }
        }
        let Answer::Awaited { answers, .. } = &self.state else { unreachable!("it has a channel now") };
        answers
    }

    fn take(
        &mut self,
        receive: impl FnOnce(&Receiver<Result<T, SubstantiateError>>) -> Option<Result<T, SubstantiateError>>,
    ) -> Option<Result<T, SubstantiateError>> {
        match std::mem::replace(&mut self.state, Answer::Taken) {
            Answer::Known(answer) => Some(answer),
            Answer::Taken => None,
            Answer::Awaited { request, answers } => {
                let answer = receive(&answers);
                if answer.is_none() {
                    self.state = Answer::Awaited { request, answers };
                }
                answer
            }
        }
    }

    /// Gives the request up: it is answered with [`SubstantiateError::Cancelled`] at once, unless it has been answered.
    /// When nobody else waits for the instance, its start is cancelled. Does not block.
    pub fn cancel(&self) {
        if let Answer::Awaited { request: Some((worker, request)), .. } = &self.state {
            worker.shared.cancel_request(&worker.cell, *request);
        }
    }
}

impl<T> Drop for Substantiation<T> {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl<T> fmt::Debug for Substantiation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            Answer::Known(_) => "answered",
            Answer::Awaited { .. } => "awaited",
            Answer::Taken => "taken",
        };
        f.debug_struct("Substantiation").field("state", &state).finish()
    }
}

/// A stop that was asked for. Dropping it changes nothing.
#[derive(Debug)]
pub struct Insubstantiation {
    /// Disconnected when it is.
    gone: Receiver<Infallible>,
    /// On whose threads nobody waits: the stop may be waiting for them.
    master: u64,
}

impl Insubstantiation {
    /// Blocks until the instance is gone. Within a driver's method it does not block.
    pub fn wait(&self) {
        if !threads::belongs_to(self.master) {
            // Nothing is ever sent: it is disconnected.
            let _ = self.gone.recv();
        }
    }

    /// Blocks until the instance is gone, at most for `timeout`; whether it is. Within a driver's method it does not block.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let timeout = if threads::belongs_to(self.master) { Duration::ZERO } else { timeout };
        recv_within(&self.gone, timeout).is_err_and(|error| error.is_disconnected())
    }

    /// Whether the instance is gone. Does not block.
    pub fn try_wait(&self) -> bool {
        self.wait_timeout(Duration::ZERO)
    }

    /// A channel that carries nothing and is disconnected when the instance is gone, for `select!`.
    pub fn receiver(&self) -> &Receiver<Infallible> {
        &self.gone
    }
}
