//! An agent's side of one upgraded connection: the threads that read it, one after the other, and the commands that run
//! for it.
//!
//! What the messages mean is decided by the [`Session`]; what a command does is in `job`. The thread that has read that a
//! command is to start lets another one read on and goes on with the command; so no command is waited for in order to read.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use tungstenite::protocol::Role;

use super::super::budget::Budget;
use super::super::msgpack::Raw;
use super::super::threads::Threads;
use super::super::transport::Transport;
use super::super::wire::{Limits, Wire, WireReader};
use super::codec::{self, FileJob, Info, Job, Settings};
use super::job;
use super::session::{Session, Todo};
use crate::Agent;

/// How many answers may wait for a command; it has fewer requests than that under way.
const ANSWERS: usize = 32;

/// The longest message of a master that has not greeted yet.
const MAX_GREETING: usize = 1 << 20;

/// What the master answers to a command: bytes if it was asked for some, or why it wants no more.
pub(super) type Answer = Result<Vec<u8>, String>;

pub(super) struct Connection {
    wire: Arc<Wire>,
    agent: Arc<dyn Agent>,
    info: Info<'static>,
    session: Mutex<Session>,
    /// Those that run.
    commands: Mutex<HashMap<String, Command>>,
    threads: Arc<Threads>,
}

/// How a command is reached.
struct Command {
    answers: Sender<Answer>,
    /// How many bytes an answer may carry.
    longest_answer: usize,
    /// Dropped to interrupt it.
    interrupt: Option<Sender<Infallible>>,
}

impl Command {
    /// Returns the bytes of an answer. The rest of the answer is discarded, whatever its length.
    fn bytes_of(&self, answer: Raw<'_>) -> Answer {
        match answer.bytes() {
            Some(bytes) if self.longest_answer == 0 || bytes.is_empty() => Ok(Vec::new()),
            Some(bytes) if bytes.len() > self.longest_answer => {
                Err(format!("the master sent {} bytes, expected at most {}", bytes.len(), self.longest_answer))
            }
            Some(bytes) => Ok(bytes.to_vec()),
            None => Ok(Vec::new()),
        }
    }
}

/// What the thread needs that reads.
struct Reading {
    reader: WireReader,
    greeted: bool,
    /// Told at the end.
    over: Sender<Over>,
}

/// What the thread does next that has read a message.
enum Next {
    Read,
    Run(Box<(Job, Settings, Port)>),
    Shutdown,
}

/// Why a connection is over.
pub(super) enum Over {
    /// The master has told us to end.
    Shutdown,
    Lost(String),
}

impl Connection {
    pub(super) fn new(
        transport: Transport,
        limits: Limits,
        agent: Arc<dyn Agent>,
        info: Info<'static>,
        threads: Arc<Threads>,
    ) -> Arc<Self> {
        let wire = Arc::new(Wire::new(transport, Role::Client, limits, Budget::new(limits.max_message)));
        let session = Mutex::new(Session::new());
        Arc::new(Self { wire, agent, info, session, commands: Mutex::default(), threads })
    }

    /// The body of the writing thread.
    pub(super) fn write(&self) {
        if self.wire.write().is_some() {
            self.wire.cut();
        }
    }

    /// Serves the master until the connection is over. `rest` was read already.
    pub(super) fn serve(self: &Arc<Self>, rest: Vec<u8>, deadline: Instant) -> Over {
        let (tell, over) = bounded(1);
        let reader = WireReader::new(self.wire.clone(), rest, deadline, MAX_GREETING);
        let over = match self.pass_on(Box::new(Reading { reader, greeted: false, over: tell })) {
            Ok(()) => over.recv().unwrap_or_else(|_| Over::Lost("its reading thread panicked".to_owned())),
            Err((_, error)) => Over::Lost(format!("no thread for the connection: {error}")),
        };
        // What is still to be said is written; commands that wait for an answer learn that there will be none.
        self.wire.finish();
        self.commands.lock().clear();
        self.wire.settle();
        over
    }

    pub(super) fn is_greeted(&self) -> bool {
        self.session.lock().is_greeted()
    }

    /// Has another thread read on; gives the reading back when there is none.
    fn pass_on(self: &Arc<Self>, reading: Box<Reading>) -> Result<(), (Box<Reading>, io::Error)> {
        let slot = Arc::new(Mutex::new(Some(reading)));
        let (connection, taken) = (self.clone(), slot.clone());
        let passed = self.threads.run("lw agent", move || {
            let reading = taken.lock().take();
            if let Some(reading) = reading {
                connection.read(reading);
            }
        });
        passed.map_err(|error| (slot.lock().take().expect("nobody has run to take it"), error))
    }

    /// Reads until the connection is over, or until there is a command to run: then another thread reads on.
    ///
    /// That thread is awake when the command needs it; to wake one for the command would be a part of what each costs.
    fn read(self: &Arc<Self>, mut reading: Box<Reading>) {
        let over = loop {
            let message = match reading.reader.next() {
                Ok(Some(message)) => message,
                Ok(None) => continue,
                Err(reason) => break Over::Lost(reason),
            };
            match self.receive(&message) {
                Ok(Next::Read) => {}
                Ok(Next::Run(what)) => match self.pass_on(reading) {
                    Ok(()) => {
                        let (job, settings, port) = *what;
                        return job::run(&*self.agent, job, settings, port);
                    }
                    Err((back, error)) => {
                        // The port tells the master.
                        log::warn!("no thread for a command: {error}");
                        reading = back;
                    }
                },
                Ok(Next::Shutdown) => break Over::Shutdown,
                Err(violation) => break Over::Lost(reading.reader.violated(&violation)),
            }
            if !reading.greeted && self.is_greeted() {
                reading.greeted = true;
                if let Err(reason) = reading.reader.greeted() {
                    break Over::Lost(reason);
                }
            }
        };
        let _ = reading.over.send(over);
    }

    /// Does what follows from a message, but for what takes long.
    fn receive(self: &Arc<Self>, message: &[u8]) -> Result<Next, String> {
        let turn = self.session.lock().receive(message, &self.info, &variable);
        let turn = turn.map_err(|malformed| malformed.to_string())?;
        let mut next = Next::Read;
        match turn.todo {
            None => {}
            Some(Todo::Start(command, job, settings)) => {
                let port = self.port(command, &job);
                next = Next::Run(Box::new((job, settings, port)))
            }
            Some(Todo::Interrupt(command)) => {
                let interrupt = self.commands.lock().get_mut(command).and_then(|command| command.interrupt.take());
                drop(interrupt);
            }
            Some(Todo::Answer(command, result)) => {
                if let Some(command) = self.commands.lock().get(&command) {
                    let answer = result.and_then(|raw| command.bytes_of(raw));
                    // There is room: it has few requests under way, and each is answered once.
                    let _ = command.answers.try_send(answer);
                }
            }
            Some(Todo::Shutdown) => next = Next::Shutdown,
        }
        if let Some(answer) = turn.send {
            self.wire.send_soon(answer);
        }
        Ok(next)
    }

    /// How a new command is reached, and how it speaks.
    fn port(self: &Arc<Self>, id: &str, job: &Job) -> Port {
        let (answers, answered) = bounded(ANSWERS);
        let (interrupt, interrupted) = bounded(0);
        let longest_answer = match job {
            Job::Files(FileJob::Receive { block, .. }) => *block,
            _ => 0,
        };
        let command = Command { answers, longest_answer, interrupt: Some(interrupt) };
        self.commands.lock().insert(id.to_owned(), command);
        let connection = self.clone();
        Port { connection, id: id.to_owned(), answered, interrupted, unanswered: 0, completed: false }
    }

    /// The last words about a command, if there are any but that it has ended; all at once.
    fn end(&self, id: &str, last: Option<LastUpdate<'_>>, error: Option<&str>) {
        // In this order: once the session knows, there may be a new command of this name.
        self.commands.lock().remove(id);
        let mut session = self.session.lock();
        let last = last.map(|last| last(session.ask(id), id));
        let complete = codec::encode_complete(session.ended(id), id, error);
        drop(session);
        self.wire.send_all(last.into_iter().chain([complete]));
    }
}

/// Of this process, for the values of a command's variables. Its own secrets are not for commands.
fn variable(name: &str) -> Option<String> {
    let secret = ["LATENT_WORKER_SECRET", "LATENT_WORKER_SECRET_FILE", "WORKERPASS"].contains(&name);
    if secret { None } else { std::env::var(name).ok() }
}

/// Makes a message of the number that it gets and the name of its command.
pub(super) type LastUpdate<'a> = &'a dyn Fn(u64, &str) -> Vec<u8>;

/// How a command speaks to the master. Its end is told when this is dropped, at the latest.
pub(super) struct Port {
    connection: Arc<Connection>,
    id: String,
    answered: Receiver<Answer>,
    /// Disconnected when the command is to end.
    pub(super) interrupted: Receiver<Infallible>,
    unanswered: usize,
    completed: bool,
}

impl Port {
    /// Sends a request, whose number `message` gets. Blocks only while the socket takes nothing.
    pub(super) fn send(&mut self, message: impl FnOnce(u64, &str) -> Vec<u8>) {
        self.connection.wire.wait_for_room(None);
        let number = self.connection.session.lock().ask(&self.id);
        self.connection.wire.send(message(number, &self.id));
        self.unanswered += 1;
    }

    /// How many requests are under way.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Where answers come from; each is to be given to [`answered`](Self::answered).
    pub(super) fn answers(&self) -> &Receiver<Answer> {
        &self.answered
    }

    pub(super) fn answered(&mut self) {
        self.unanswered -= 1;
    }

    /// Tells the end of the command, and `last` at once with it.
    pub(super) fn complete(mut self, last: Option<LastUpdate<'_>>, error: Option<&str>) {
        self.connection.wire.wait_for_room(None);
        self.completed = true;
        self.connection.end(&self.id, last, error);
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if !self.completed {
            self.connection.end(&self.id, None, Some("the agent has no thread for it, or panicked"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a5_an_answer_is_no_longer_than_was_asked_for() {
        let mut writer = super::super::super::msgpack::Writer(Vec::new());
        writer.binary(&[7; 5]);
        let answer = |longest_answer| {
            let command = Command { answers: bounded(1).0, longest_answer, interrupt: None };
            command.bytes_of(Raw::whole(&writer.0).unwrap())
        };
        assert_eq!(answer(5), Ok(vec![7; 5]));
        assert!(answer(4).unwrap_err().contains("at most 4"));
        assert_eq!(answer(0), Ok(Vec::new()), "no bytes were asked for, and none are kept");
    }
}
