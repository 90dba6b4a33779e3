//! An agent's side of one connection, as a value: messages go in, messages and what is to be done come out.
//!
//! It answers every request of the master, numbers ours, and knows which command waits for which answer. Sockets, threads
//! and what commands do are elsewhere.

use std::collections::HashMap;

use super::super::codec::{MAX_COMMAND, MAX_COMMANDS, encode_response};
use super::super::msgpack::{Malformed, Raw};
use super::codec::{self, Info, Job, Message, Request, Settings, Variable};

pub(super) struct Session {
    next_number: u64,
    /// Requests of ours that are not answered yet, and the command that waits for the answer.
    asked: HashMap<u64, String>,
    settings: Settings,
    greeted: bool,
    /// The running commands, with the length of the message that started each of them.
    running: HashMap<String, usize>,
    /// The sum of these lengths.
    held: usize,
}

/// What follows from one message.
#[derive(Debug, Default)]
pub(super) struct Turn<'m> {
    pub(super) todo: Option<Todo<'m>>,
    /// The answer; sent after `todo` was begun.
    pub(super) send: Option<Vec<u8>>,
}

#[derive(Debug)]
pub(super) enum Todo<'m> {
    /// Begin a command; output goes as the settings say.
    Start(&'m str, Job, Settings),
    Interrupt(&'m str),
    /// A command gets the answer it waits for.
    Answer(String, Result<Raw<'m>, String>),
    /// End.
    Shutdown,
}

impl Session {
    pub(super) fn new() -> Self {
        let settings = Settings::default();
        Self { next_number: 0, asked: HashMap::new(), settings, greeted: false, running: HashMap::new(), held: 0 }
    }

    /// The number of a new request, whose answer is for this command.
    pub(super) fn ask(&mut self, command: &str) -> u64 {
        let number = self.number();
        self.asked.insert(number, command.to_owned());
        number
    }

    /// A command that was begun is over, and waits for no more answers: a master may use its name again. The number of
    /// the request that says so, whose answer nobody waits for.
    pub(super) fn ended(&mut self, command: &str) -> u64 {
        self.held -= self.running.remove(command).unwrap_or_default();
        self.asked.retain(|_, waiting| waiting != command);
        self.number()
    }

    fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// Whether the master has said how it wants things: from then on it takes us for attached.
    pub(super) fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Takes the next message of the master.
    pub(super) fn receive<'m>(
        &mut self,
        bytes: &'m [u8],
        info: &Info<'_>,
        variable: Variable<'_>,
    ) -> Result<Turn<'m>, Malformed> {
        // A master of ours has what it says taken as it is.
        let variable = (!self.settings.raw_output).then_some(variable);
        let (number, request) = match codec::decode(bytes, variable)? {
            Message::Unanswerable => return Ok(Turn::default()),
            Message::Response { number, result } => {
                let todo = self.asked.remove(&number).map(|command| Todo::Answer(command, result));
                return Ok(Turn { todo, send: None });
            }
            Message::Request { number, request } => (number, request),
        };
        let done = |todo| Turn { todo, send: Some(encode_response(number, None)) };
        Ok(match request {
            Request::Ping => done(None),
            Request::Info => Turn { todo: None, send: Some(codec::encode_info(number, info)) },
            Request::Settings(settings) => {
                self.settings = settings;
                self.greeted = true;
                done(None)
            }
            Request::Start { command, job } => match self.begin(command, job, bytes.len()) {
                Ok(job) => done(Some(Todo::Start(command, job, self.settings))),
                Err(refusal) => Turn { todo: None, send: Some(encode_response(number, Some(&refusal))) },
            },
            Request::Interrupt { command } => done(Some(Todo::Interrupt(command))),
            Request::Shutdown => done(Some(Todo::Shutdown)),
            Request::Refused(why) => Turn { todo: None, send: Some(encode_response(number, Some(why))) },
        })
    }

    fn begin(&mut self, command: &str, job: Result<Job, String>, length: usize) -> Result<Job, String> {
        let job = job?;
        if self.running.len() >= MAX_COMMANDS {
            return Err(format!("{MAX_COMMANDS} commands run already"));
        }
        if self.running.contains_key(command) {
            return Err(format!("the command {command:?} runs already"));
        }
        if self.held + length > MAX_COMMAND {
            return Err(format!(
                "the command needs {length} bytes, but running commands use {} of {MAX_COMMAND} bytes",
                self.held
            ));
        }
        self.held += length;
        self.running.insert(command.to_owned(), length);
        Ok(job)
    }
}

#[cfg(test)]
#[path = "session/tests.rs"]
mod tests;
