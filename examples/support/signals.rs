//! The signals that ask a program to end, as messages in a channel.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;

use crossbeam_channel::{Receiver, TrySendError, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// How many signals may wait in the channel. Further ones contain no information.
const WAITING: usize = 8;

/// From now on SIGINT, SIGTERM and SIGHUP do not end the process; each of them becomes a message.
///
/// A SIGHUP that is ignored stays ignored: that is how `nohup` works.
pub(crate) fn interrupts() -> io::Result<Receiver<()>> {
    let (mut reader, writer) = UnixStream::pair()?;
    let hangup = (!hangup_is_ignored()).then_some(SIGHUP);
    for signal in [SIGINT, SIGTERM].into_iter().chain(hangup) {
        pipe::register(signal, writer.try_clone()?)?;
    }
    let (sender, receiver) = bounded(WAITING);
    // It lives as long as the process: the handlers never close their end.
    thread::Builder::new().name("signals".into()).spawn(move || {
        while reader.read_exact(&mut [0]).is_ok() {
            if let Err(TrySendError::Disconnected(())) = sender.try_send(()) {
                return;
            }
        }
    })?;
    Ok(receiver)
}

fn hangup_is_ignored() -> bool {
    let ignored = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| ignored_signals(&status));
    match ignored {
        Some(signals) => signals & (1 << (SIGHUP - 1)) != 0,
        None => shell_survives_hangup(),
    }
}

/// The set of ignored signals in `/proc` on Linux: one bit for each signal.
fn ignored_signals(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// On other systems only `sigaction` returns the ignored signals, and safe code cannot call it. A child inherits the
/// ignored signals.
fn shell_survives_hangup() -> bool {
    let shell = Command::new("/bin/sh").args(["-c", "kill -HUP $$; exit 0"]).stdin(Stdio::null()).status();
    shell.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read() {
        assert_eq!(ignored_signals("Name:\tfarm\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"), Some(0x1001));
        assert_eq!(ignored_signals("Name:\tfarm\n"), None);
        assert_eq!(ignored_signals("SigIgn:\tlots\n"), None);
    }

    #[test]
    fn the_shell_and_the_system_agree() {
        assert_eq!(shell_survives_hangup(), hangup_is_ignored());
    }
}
