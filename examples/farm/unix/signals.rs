//! Handles Ctrl-C and other signals. Before anything is started, a signal ends the farm. After that, signals are
//! messages for the main loop, and the third one ends the farm whatever it waits for.

use std::io;
use std::process;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::complain;
use super::ending::INTERRUPTED;

pub(crate) use crate::signals::interrupts;

/// How many signals end the farm at once.
const AT_ONCE: u32 = 3;
/// How long the last message may take then.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Reports what may be left behind, and returns the exit status.
type LastWords = Box<dyn FnOnce() -> u8 + Send>;

pub(crate) struct Interrupts {
    stage: Arc<Mutex<Stage>>,
    messages: Receiver<()>,
}

enum Stage {
    /// Nothing was started that must be stopped.
    Preparing,
    Running {
        /// How many signals have been received.
        signals: u32,
        last_words: LastWords,
    },
}

impl Interrupts {
    /// From now on signals are handled.
    pub(crate) fn watch() -> io::Result<Self> {
        let signals = interrupts()?;
        let stage = Arc::new(Mutex::new(Stage::Preparing));
        let (sender, messages) = bounded(AT_ONCE as usize);
        let watched = stage.clone();
        let watch = move || signals.iter().for_each(|()| handle(&watched, &sender));
        thread::Builder::new().name("farm-signals".into()).spawn(watch)?;
        Ok(Self { stage, messages })
    }

    /// From now on signals are messages, up to the one that ends the farm at once.
    pub(crate) fn pass_on(&self, last_words: impl FnOnce() -> u8 + Send + 'static) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) =
            Stage::Running { signals: 0, last_words: Box::new(last_words) };
    }

    pub(crate) fn messages(&self) -> &Receiver<()> {
        &self.messages
    }
}

fn handle(stage: &Mutex<Stage>, messages: &Sender<()>) {
    let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *stage {
        Stage::Preparing => {
            complain("interrupted before anything was started");
            process::exit(INTERRUPTED.into());
        }
        Stage::Running { signals, last_words } => {
            *signals += 1;
            if *signals < AT_ONCE {
                // The channel has room for each of them.
                let _ = messages.try_send(());
                return;
            }
            let last_words = std::mem::replace(last_words, Box::new(|| INTERRUPTED));
            process::exit(said_in_time(last_words).into());
        }
    }
}

/// The last message queries a master that may be stuck.
fn said_in_time(last_words: LastWords) -> u8 {
    let (sender, said) = mpsc::channel();
    let speaking = thread::Builder::new().name("farm-last-words".into()).spawn(move || sender.send(last_words()));
    let status = speaking.ok().and_then(|_| said.recv_timeout(LAST_WORDS).ok());
    status.unwrap_or(INTERRUPTED)
}
