//! For tests: surroundings, a provider and a clock of their own.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use super::http::{Answer, Asking, NoAnswer, Wire};
use super::patience::Clock;
use super::surroundings::Surroundings;
use super::time::Timestamp;

/// Variables and files.
#[derive(Clone, Debug, Default)]
pub(super) struct Around {
    variables: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
}

impl Around {
    pub(super) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    pub(super) fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.into(), text.into());
        self
    }
}

impl Surroundings for Around {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned().filter(|value| !value.is_empty())
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        let path = path.to_str().unwrap_or_default();
        self.files.get(path).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// What was asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) line: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: String,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(its, _)| *its == name).map(|(_, value)| value.as_str())
    }
}

/// Answers from a list, in order; then none can be reached.
#[derive(Clone, Debug, Default)]
pub(super) struct Script(Arc<Mutex<(VecDeque<Result<Answer, NoAnswer>>, Vec<Asked>)>>);

impl Script {
    pub(super) fn new(answers: impl IntoIterator<Item = Result<Answer, NoAnswer>>) -> Self {
        Self(Arc::new(Mutex::new((answers.into_iter().collect(), Vec::new()))))
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.0.lock().1.clone()
    }

    /// Nothing is left to be asked.
    pub(super) fn is_used_up(&self) -> bool {
        self.0.lock().0.is_empty()
    }
}

pub(super) fn answer(status: u16, body: &str) -> Result<Answer, NoAnswer> {
    Ok(Answer { status, body: body.into(), date: None, retry_after: None })
}

impl Wire for Script {
    fn ask(&self, asking: &Asking<'_>, _: Duration, _: Option<&Receiver<Infallible>>) -> Result<Answer, NoAnswer> {
        let mut script = self.0.lock();
        script.1.push(Asked {
            line: format!("{} {}", asking.method, asking.uri),
            headers: asking.headers.to_vec(),
            body: String::from_utf8(asking.body.to_vec()).unwrap(),
        });
        script.0.pop_front().unwrap_or_else(|| Err(NoAnswer::Unreachable("the script has ended".into())))
    }
}

/// A clock that moves when somebody waits for it.
#[derive(Debug)]
pub(super) struct Jumping(Mutex<(Instant, i64)>);

impl Jumping {
    /// From this second on.
    pub(super) fn at(wall: i64) -> Self {
        Self(Mutex::new((Instant::now(), wall)))
    }

    pub(super) fn advance(&self, duration: Duration) {
        let mut now = self.0.lock();
        now.0 += duration;
        now.1 += i64::try_from(duration.as_secs()).unwrap();
    }
}

impl Clock for Jumping {
    fn now(&self) -> Instant {
        self.0.lock().0
    }

    fn wall(&self) -> Timestamp {
        Timestamp(self.0.lock().1)
    }

    fn wait(&self, duration: Duration, cancel: Option<&Receiver<Infallible>>) -> bool {
        if cancel.is_some_and(|cancel| matches!(cancel.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected)))
        {
            return false;
        }
        self.advance(duration);
        true
    }
}
