//! Surroundings, a provider and a time of a test's own.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use super::super::http::{Answer, Asking, NoAnswer, Wire};
use super::super::patience::Time;
use super::super::surroundings::Surroundings;
use super::super::time::Timestamp;

/// Variables and files.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Around {
    variables: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
}

impl Around {
    pub(in super::super) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    pub(in super::super) fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.into(), text.into());
        self
    }
}

impl Surroundings for Around {
    fn raw_variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).map(OsString::from)
    }

    fn home(&self) -> Option<PathBuf> {
        self.variables.get("HOME").map(PathBuf::from)
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        let path = path.to_str().unwrap_or_default();
        self.files.get(path).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// What was asked.
#[derive(Clone, Debug)]
pub(in super::super) struct Asked {
    pub(in super::super) line: String,
    pub(in super::super) headers: Vec<(&'static str, String)>,
    pub(in super::super) body: String,
    /// By the test's clock.
    pub(in super::super) at: Duration,
}

impl Asked {
    pub(in super::super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(its, _)| *its == name).map(|(_, value)| value.as_str())
    }

    /// Of the access key that has signed it.
    pub(in super::super) fn signer(&self) -> Option<&str> {
        self.header("authorization")?.split_once("Credential=")?.1.split('/').next()
    }
}

pub(in super::super) type Reply = Result<Answer, NoAnswer>;

/// Answers from a list, in order; then it cannot be reached.
#[derive(Clone, Debug)]
pub(in super::super) struct Script {
    answers: Arc<Mutex<VecDeque<Reply>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    clock: Clock,
}

impl Script {
    pub(in super::super) fn new(clock: &Clock, answers: impl IntoIterator<Item = Reply>) -> Self {
        let answers = Arc::new(Mutex::new(answers.into_iter().collect()));
        Self { answers, asked: Arc::default(), clock: clock.clone() }
    }

    pub(in super::super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    pub(in super::super) fn push(&self, answer: Reply) {
        self.answers.lock().push_back(answer);
    }
}

pub(in super::super) fn answer(status: u16, body: &str) -> Reply {
    Ok(Answer { status, body: body.into(), date: None, retry_after: None })
}

/// An error as EC2 has it.
pub(in super::super) fn refusal(status: u16, code: &str) -> Reply {
    answer(status, &format!("<Response><Errors><Error><Code>{code}</Code></Error></Errors></Response>"))
}

impl Wire for Script {
    fn ask(&self, asking: &Asking<'_>, _: Duration, _: Option<&Receiver<Infallible>>) -> Reply {
        self.asked.lock().push(Asked {
            line: format!("{} {}", asking.method, asking.uri),
            headers: asking.headers.to_vec(),
            body: String::from_utf8(asking.body.to_vec()).unwrap(),
            at: self.clock.passed(),
        });
        let next = self.answers.lock().pop_front();
        next.unwrap_or_else(|| Err(NoAnswer::Unreachable("the script has ended".into())))
    }
}

/// A clock that moves when somebody waits for it, at once. Clones are the same clock.
#[derive(Clone, Debug)]
pub(in super::super) struct Clock {
    start: Instant,
    wall: i64,
    passed: Arc<Mutex<Duration>>,
    cancel: Option<Receiver<Infallible>>,
}

impl Clock {
    /// From this second on.
    pub(in super::super) fn at(wall: i64) -> Self {
        Self { start: Instant::now(), wall, passed: Arc::default(), cancel: None }
    }

    pub(in super::super) fn cancelled_by(&self, cancel: Receiver<Infallible>) -> Self {
        Self { cancel: Some(cancel), ..self.clone() }
    }

    /// Of somebody else who begins now.
    pub(in super::super) fn of_another(&self) -> Self {
        Self { passed: Arc::new(Mutex::new(self.passed())), ..self.clone() }
    }

    pub(in super::super) fn passed(&self) -> Duration {
        *self.passed.lock()
    }

    pub(in super::super) fn advance(&self, duration: Duration) {
        *self.passed.lock() += duration;
    }
}

impl Time for Clock {
    fn now(&self) -> Instant {
        self.start + self.passed()
    }

    fn wall(&self) -> Timestamp {
        Timestamp(self.wall + i64::try_from(self.passed().as_secs()).unwrap())
    }

    fn sleep(&self, duration: Duration) -> bool {
        self.advance(duration);
        true
    }

    fn cancel(&self) -> Option<&Receiver<Infallible>> {
        self.cancel.as_ref()
    }
}
