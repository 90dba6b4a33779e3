//! What is going on on the thread that asks: whether it was cancelled, and whether anything of the request was sent.
//!
//! Idle connections belong to nobody, so that they cannot know whose cancel it is; the thread knows, for as long as it asks.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;

use crossbeam_channel::{Receiver, TryRecvError};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, Either, NextTimeout, Transport};

use crate::drivers::veil::{Veil, Veiled};

/// How far it has come.
#[derive(Default)]
pub(super) struct Facts {
    veil: Veil,
    cancel: Option<Receiver<Infallible>>,
    pub(super) cancelled: bool,
    /// The request, or a part of it. The words by which TLS is agreed on, or a way through a proxy, are none.
    pub(super) sent: bool,
    /// How many connections are being made: that through a proxy begins with one to the proxy.
    connecting: u32,
}

thread_local! {
    static FACTS: RefCell<Option<Facts>> = const { RefCell::new(None) };
}

/// As long as it is there, this thread asks.
pub(super) struct Watched(());

impl Watched {
    /// The request and the answer of this thread pass through the veil.
    pub(super) fn begin(cancel: Option<Receiver<Infallible>>, veil: Veil) -> Self {
        FACTS.set(Some(Facts { veil, cancel, ..Facts::default() }));
        Self(())
    }

    pub(super) fn end(self) -> Facts {
        FACTS.take().unwrap_or_default()
    }
}

/// Also when a panic goes through.
impl Drop for Watched {
    fn drop(&mut self) {
        FACTS.set(None);
    }
}

fn is_cancelled() -> bool {
    FACTS.with_borrow_mut(|facts| {
        let Some(Facts { cancel: Some(cancel), cancelled, .. }) = facts else { return false };
        *cancelled |= matches!(cancel.try_recv(), Err(TryRecvError::Disconnected));
        *cancelled
    })
}

/// To be asked before each wait, which must be short.
pub(super) fn stop_if_cancelled() -> Result<(), ureq::Error> {
    // Of no kind that has a meaning for the layers in between.
    if is_cancelled() { Err(ureq::Error::Io(io::Error::other("the call was cancelled"))) } else { Ok(()) }
}

/// Notes that a connection is being made: it is the first.
#[derive(Debug)]
pub(super) struct BeginConnector;

impl Connector for BeginConnector {
    type Out = ();

    fn connect(&self, _: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<()>, ureq::Error> {
        note(|facts| facts.connecting += 1);
        Ok(None)
    }
}

/// Notes that the connection is made, and then that something of the request is sent: it is the last, so that the words of
/// TLS do not come through it.
#[derive(Debug)]
pub(super) struct SentConnector;

impl<In: Transport> Connector<In> for SentConnector {
    type Out = Sent<In>;

    fn connect(&self, _: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        note(|facts| facts.connecting = facts.connecting.saturating_sub(1));
        Ok(chained.map(Sent))
    }
}

fn note(what: impl FnOnce(&mut Facts)) {
    FACTS.with_borrow_mut(|facts| facts.as_mut().map(what));
}

/// Hides the request and its answer from the log of the library. It is the last connector, except within a connection
/// to a proxy, on which the library itself speaks.
#[derive(Debug)]
pub(super) struct VeilConnector;

impl<In: Transport> Connector<In> for VeilConnector {
    type Out = Either<In, Veiled<In>>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let is_to_proxy = FACTS.with_borrow(|facts| facts.as_ref().is_some_and(|facts| facts.connecting > 0));
        Ok(chained.map(|inner| match is_to_proxy {
            true => Either::A(inner),
            false => Either::B(Veiled::new(inner, details, veil)),
        }))
    }
}

/// The veil of the call that this thread makes.
fn veil() -> Veil {
    FACTS.with_borrow(|facts| facts.as_ref().map(|facts| facts.veil.clone())).unwrap_or_default()
}

#[derive(Debug)]
pub(super) struct Sent<In>(In);

impl<In: Transport> Transport for Sent<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        stop_if_cancelled()?;
        note(|facts| facts.sent |= facts.connecting == 0);
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        In::await_input(&mut self.0, timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}
