//! The engine's connections as ureq wants them.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};

use super::address::{EngineAddress, Place};
use super::names::Names;
use super::socket::Socket;
#[cfg(feature = "tls")]
use super::tls::TlsStream;
use super::watch::Watch;
use crate::drivers::veil::{Veil, Veiled};

/// Connects to one engine, whatever the request's URI says.
#[derive(Debug)]
pub(super) struct EngineConnector {
    pub(super) address: EngineAddress,
    pub(super) names: Arc<Names>,
    pub(super) watch: Arc<Watch>,
    pub(super) veil: Veil,
}

impl EngineConnector {
    fn open(&self) -> io::Result<Stream> {
        let socket = match &self.address.place {
            Place::Unix(path) => Socket::connect_unix(path, self.watch.clone())?,
            Place::Tcp { host, port } => {
                let addresses = self.names.addresses(host, *port, &self.watch)?;
                Socket::connect_tcp(&addresses, &self.watch).inspect_err(|_| self.names.forget())?
            }
        };
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.address.tls {
            return Ok(Stream::Tls(Box::new(tls.agree(socket)?)));
        }
        Ok(Stream::Plain(socket))
    }
}

impl Connector for EngineConnector {
    type Out = Veiled<Connection>;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Self::Out>, ureq::Error> {
        self.watch.connecting();
        let stream = self.open()?;
        self.watch.connected();
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        let veil = self.veil.clone();
        Ok(Some(Veiled::new(Connection { stream, buffers, is_deaf: false }, details, move || veil.clone())))
    }
}

#[derive(Debug)]
enum Stream {
    Plain(Socket),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream>),
}

pub(super) struct Connection {
    stream: Stream,
    buffers: LazyBuffers,
    /// The engine has closed its side, and said why: nothing is sent any more, so that its answer is read.
    is_deaf: bool,
}

impl Connection {
    fn send(&mut self, amount: usize) -> io::Result<()> {
        self.socket().watch().sending()?;
        let output = &self.buffers.output()[..amount];
        match &mut self.stream {
            Stream::Plain(socket) => socket.write_all(output),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.write_all(output).and_then(|()| tls.flush()),
        }
    }

    fn socket(&self) -> &Socket {
        match &self.stream {
            Stream::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => &tls.sock,
        }
    }
}

/// The deadline is the watch's; ureq is given none of its own.
impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        if self.is_deaf {
            return Ok(());
        }
        match self.send(amount) {
            // An engine that does not want the rest of a context answers before it has come.
            Err(error)
                if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
                    && self.socket().has_input() =>
            {
                self.is_deaf = true;
                Ok(())
            }
            result => Ok(result?),
        }
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        let buffer = self.buffers.input_append_buf();
        let count = match &mut self.stream {
            Stream::Plain(socket) => socket.read(buffer)?,
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.read(buffer)?,
        };
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        self.socket().is_quiet()
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// The connector finds the address itself, as long as its call may wait.
#[derive(Debug)]
pub(super) struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        Ok(self.empty())
    }
}
