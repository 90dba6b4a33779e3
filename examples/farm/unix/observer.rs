//! The thread that follows the events of the master: it writes the record, keeps the tally and tells the story.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};
use latent_worker::{Event, EventKind};

use super::jobs::Job;
use super::record::{Entry, ExitCodes};
use super::screen::Screen;
use super::story::Story;
use super::tally::Tally;

/// How many events may wait to be looked at, beside one for each build: a shutdown ends all that wait in one go. An
/// event that does not fit is missing from the record.
pub(crate) const CAPACITY: usize = 1 << 16;

/// After how many consecutive attempts that fail before their start is called the farm gives up. They do not count as
/// attempts of a build, so they would be tried for ever.
const REFUSALS: usize = 3;

pub(crate) struct Observer {
    events: Receiver<Event>,
    tally: SharedTally,
    stop: Sender<()>,
    outcome: Receiver<Outcome>,
    stuck: Receiver<()>,
}

/// Read by whoever draws, written by the observer alone.
#[derive(Clone, Default)]
pub(crate) struct SharedTally(Arc<Mutex<Tally>>);

impl SharedTally {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The errors of the record and the journal, if any.
type Outcome = Result<(), String>;

/// The file of the record.
pub(crate) struct RecordFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl RecordFile {
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        let file = BufWriter::new(File::create(&path)?);
        Ok(Self { path, file })
    }
}

/// What the thread owns.
struct Watch {
    jobs: Arc<[Job]>,
    exits: Arc<ExitCodes>,
    tally: SharedTally,
    story: Story,
    screen: Arc<Screen>,
    /// Gone after the first error.
    record: Option<RecordFile>,
    outcome: Outcome,
    journal_trouble: bool,
    stuck: Sender<()>,
    next_sequence: Option<u64>,
}

impl Observer {
    pub(crate) fn start(
        events: Receiver<Event>,
        jobs: Arc<[Job]>,
        exits: Arc<ExitCodes>,
        story: Story,
        screen: Arc<Screen>,
        tally: SharedTally,
        record: Option<RecordFile>,
    ) -> io::Result<Self> {
        let (stop, stopped) = bounded(1);
        let (sender, outcome) = bounded(1);
        let (stuck_sender, stuck) = bounded(1);
        let mut watch = Watch {
            jobs,
            exits,
            tally: tally.clone(),
            story,
            screen,
            record,
            outcome: Ok(()),
            journal_trouble: false,
            stuck: stuck_sender,
            next_sequence: None,
        };
        let receiver = events.clone();
        thread::Builder::new().name("farm-observer".into()).spawn(move || {
            watch.follow(&receiver, &stopped);
            // Nobody is there to take it when the end was not waited for.
            let _ = sender.send(watch.outcome);
        })?;
        Ok(Self { events, tally, stop, outcome, stuck })
    }

    /// Receives an item when nothing runs and nothing can be started.
    pub(crate) fn stuck(&self) -> &Receiver<()> {
        &self.stuck
    }

    /// Whether so many events wait that no more should be caused if it can be helped.
    pub(crate) fn is_behind(&self) -> bool {
        self.events.len() > CAPACITY / 2
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock()
    }

    /// Looks at what has come so far, and no further. Waits for that, if there is a limit no longer than that.
    pub(crate) fn finish(&self, limit: Option<Duration>) -> Outcome {
        let _ = self.stop.try_send(());
        let outcome = match limit {
            Some(limit) => self.outcome.recv_timeout(limit),
            None => self.outcome.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        outcome.unwrap_or_else(|_| Err("the record is incomplete: it could not be written to its end".to_owned()))
    }
}

impl Watch {
    fn follow(&mut self, events: &Receiver<Event>, stopped: &Receiver<()>) {
        loop {
            select! {
                recv(events) -> event => match event {
                    Ok(event) => self.take(&event),
                    Err(_) => break,
                },
                recv(stopped) -> _ => {
                    events.try_iter().for_each(|event| self.take(&event));
                    break;
                }
            }
            if events.is_empty() {
                self.write(|file| file.flush());
            }
        }
        self.write(|file| file.flush());
    }

    fn take(&mut self, event: &Event) {
        if let Some(expected) = self.next_sequence.replace(event.sequence + 1)
            && expected != event.sequence
        {
            let missing = event.sequence.saturating_sub(expected);
            self.complain(format!("the record is incomplete: {missing} events are missing before t={:?}", event.at));
        }
        if let EventKind::JournalTrouble { what } = &event.kind
            && !std::mem::replace(&mut self.journal_trouble, true)
        {
            self.screen.alert(format!("farm: the journal is incomplete: {what}"));
            self.outcome = self.outcome.clone().and(Err(what.to_string()));
        }
        let Some(entry) = Entry::new(event, &self.jobs, &self.exits) else { return };
        self.write(|file| writeln!(file, "{}", entry.to_json()));
        let mut tally = self.tally.lock();
        let line = self.story.line(&entry, &tally);
        let refused_before = tally.refused;
        tally.add(&entry);
        let (refused, nothing_runs) = (tally.refused, tally.running.is_empty());
        drop(tally);
        if refused_before == 0 && refused > 0 {
            let reason = entry.reason.as_deref().unwrap_or_default();
            let worker = entry.worker.as_deref().unwrap_or_default();
            self.screen.alert(format!("farm: {worker} cannot start an instance and is left alone {reason}"));
        }
        if refused >= REFUSALS && nothing_runs {
            // One item is enough.
            let _ = self.stuck.try_send(());
        }
        if let Some(line) = line {
            self.screen.note(line);
        }
    }

    fn write(&mut self, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) {
        if let Some(record) = &mut self.record
            && let Err(error) = write(&mut record.file)
        {
            let path = record.path.display().to_string();
            if let Some(record) = self.record.take() {
                // Without another try to write what is left.
                let _ = record.file.into_parts();
            }
            self.complain(format!("the record is incomplete: cannot write to {path}: {error}"));
        }
    }

    /// Remembers the first complaint, and says it at once: a long run may be ahead.
    fn complain(&mut self, what: String) {
        if self.outcome.is_ok() {
            self.screen.alert(format!("farm: {what}"));
            self.outcome = Err(what);
        }
    }
}
