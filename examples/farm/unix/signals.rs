//! Ctrl-C and its like, as messages in a channel.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::thread;

use crossbeam_channel::{Receiver, unbounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// From now on these signals do not end the process; each of them becomes a message.
pub(crate) fn interrupts() -> io::Result<Receiver<()>> {
    let (mut reader, writer) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM] {
        pipe::register(signal, writer.try_clone()?)?;
    }
    let (sender, receiver) = unbounded();
    // It lives as long as the process: the handlers never close their end.
    thread::Builder::new().name("farm-signals".into()).spawn(move || {
        while reader.read_exact(&mut [0]).is_ok() {
            if sender.send(()).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}
