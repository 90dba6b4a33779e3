//! A file descriptor that is readable while a channel has something in it, for event loops that know nothing of channels.
//!
//! A thread watches the channel and takes nothing out of it: it puts one byte into a pipe when there is something, and
//! then rests until a taker has found the channel empty and has taken the byte out.

use std::convert::Infallible;
use std::ffi::c_int;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, bounded, select};
use parking_lot::Mutex;

use super::boundary::Result;

/// The watch over one channel. Nothing is watched before somebody asks for the descriptor.
#[derive(Default)]
pub(super) struct Readiness {
    watch: Mutex<Option<Watch>>,
}

struct Watch {
    signal: Arc<Mutex<Signal>>,
    /// To have the thread watch again.
    resume: Sender<()>,
    /// Dropped to end the thread.
    _end: Sender<Infallible>,
}

/// The pipe. There is never more than one byte in it, so that neither side of it blocks.
struct Signal {
    reader: PipeReader,
    writer: PipeWriter,
    is_raised: bool,
}

impl Readiness {
    /// The descriptor, which lives as long as this.
    #[cfg(unix)]
    pub(super) fn fd<T: Send + 'static>(&self, source: &Receiver<T>) -> Result<c_int> {
        use std::os::fd::AsRawFd;

        let mut watch = self.watch.lock();
        let watch = match &mut *watch {
            Some(watch) => watch,
            none => none.insert(Watch::begin(source.clone())?),
        };
        let signal = watch.signal.lock();
        Ok(signal.reader.as_raw_fd())
    }

    /// What event loops there wait on is something else.
    #[cfg(not(unix))]
    pub(super) fn fd<T: Send + 'static>(&self, _: &Receiver<T>) -> Result<c_int> {
        use super::boundary::Failure;
        use super::code::lw_code::LW_ERROR_UNSUPPORTED;

        let _ = Watch::begin::<T>;
        Err(Failure::new(LW_ERROR_UNSUPPORTED, "file descriptors to wait on are there on Unix only"))
    }

    /// To be called after every attempt to take something out of the channel. When nothing will ever come again the
    /// thread finds that out, and the descriptor is readable again.
    pub(super) fn after_take<T>(&self, source: &Receiver<T>) {
        if let Some(watch) = &*self.watch.lock() {
            let mut signal = watch.signal.lock();
            if signal.is_raised && source.is_empty() && signal.reader.read(&mut [0]).is_ok() {
                signal.is_raised = false;
                // Whatever has come since the look is seen by the thread.
                let _ = watch.resume.try_send(());
            }
        }
    }
}

impl Watch {
    fn begin<T: Send + 'static>(source: Receiver<T>) -> Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        let signal = Arc::new(Mutex::new(Signal { reader, writer, is_raised: false }));
        let (resume, resumed) = bounded(1);
        let (end, ended) = bounded::<Infallible>(0);
        let raised = signal.clone();
        let watch = move || {
            loop {
                let mut either = Select::new();
                either.recv(&source);
                either.recv(&ended);
                either.ready();
                if ended.try_recv() == Err(TryRecvError::Disconnected) {
                    return;
                }
                {
                    let mut signal = raised.lock();
                    signal.is_raised = signal.writer.write_all(&[0]).is_ok();
                }
                select! {
                    recv(resumed) -> _ => {}
                    recv(ended) -> _ => return,
                }
            }
        };
        thread::Builder::new().name("lw readiness".to_owned()).spawn(watch)?;
        Ok(Self { signal, resume, _end: end })
    }
}
