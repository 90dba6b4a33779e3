//! Containers: made, started, looked at, waited for, stopped, removed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::http::{Body, Request, percent_encoded};
use super::log::{Frames, Tail};
use super::{Engine, EngineError, Patience, null_is_default, tar_file};

/// What is known of a container.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Its streams are one, and its log has no frames.
    pub(crate) tty: bool,
    pub(crate) state: State,
}

/// How a container is.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited`, `dead`.
    pub(crate) status: String,
    pub(crate) running: bool,
    pub(crate) exit_code: i64,
    /// Podman 4.3 does not say.
    pub(crate) oom_killed: bool,
    /// Why it could not be started; mostly empty.
    pub(crate) error: String,
}

/// A container in a list.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) id: String,
}

/// What was found by a call that ends something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was done.
    Done,
    /// It did not run.
    NotRunning,
    /// There is no such container.
    Gone,
}

/// What an engine answers; what it leaves out is empty.
mod said {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::null_is_default;

    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    pub(super) struct Container {
        pub(super) id: String,
        pub(super) state: State,
        #[serde(default, deserialize_with = "null_is_default")]
        pub(super) config: Config,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    pub(super) struct State {
        pub(super) status: String,
        pub(super) running: bool,
        #[serde(default, deserialize_with = "null_is_default")]
        pub(super) exit_code: i64,
        #[serde(default, rename = "OOMKilled", deserialize_with = "null_is_default")]
        pub(super) oom_killed: bool,
        #[serde(default, deserialize_with = "null_is_default")]
        pub(super) error: String,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase")]
    pub(super) struct Config {
        #[serde(default, deserialize_with = "null_is_default")]
        pub(super) labels: BTreeMap<String, String>,
        #[serde(default, deserialize_with = "null_is_default")]
        pub(super) tty: bool,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    pub(super) struct Listed {
        pub(super) id: String,
        #[serde(default, deserialize_with = "null_is_default")]
        pub(super) labels: BTreeMap<String, String>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    pub(super) struct Exit {
        #[serde(default)]
        pub(super) error: Option<ExitError>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    pub(super) struct ExitError {
        #[serde(default, deserialize_with = "null_is_default")]
        pub(super) message: String,
    }
}

impl From<said::Container> for Container {
    fn from(said: said::Container) -> Self {
        Self {
            id: said.id,
            labels: said.config.labels,
            tty: said.config.tty,
            state: State {
                status: said.state.status,
                running: said.state.running,
                exit_code: said.state.exit_code,
                oom_killed: said.state.oom_killed,
                error: said.state.error,
            },
        }
    }
}

/// `/containers/ID`. What can be no part of a path is not asked for: an engine would take it for another path.
fn path_of(id: &str, doing: &str) -> Result<String, EngineError> {
    match id {
        "" | "." | ".." => {
            Err(EngineError::BadParameter { doing: doing.into(), message: format!("{id:?} is no container's name") })
        }
        _ => Ok(format!("/containers/{}", percent_encoded(id, ""))),
    }
}

/// There is no such container: for some calls that is an answer like another.
fn unless_gone<T>(result: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_no_such_container() => Ok(None),
        Err(error) => Err(error),
    }
}

impl Engine {
    /// Makes a container and returns its id. The body is the engine's own (`ContainerCreate`). No such image is a status
    /// of 404, a name in use [a conflict](EngineError::is_conflict).
    pub(crate) fn create(
        &self,
        name: &str,
        platform: Option<&str>,
        body: &serde_json::Value,
        patience: Patience<'_>,
    ) -> Result<String, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Created {
            id: String,
        }

        let request = Request::post("/containers/create", format!("create container {name}"))
            .query("name", name)
            .query_if("platform", platform);
        let request = Request { body: Body::Json(body.to_string().into_bytes()), ..request };
        Ok(self.call(request, patience)?.json::<Created>()?.id)
    }

    /// Starts a container; one that runs already is success.
    pub(crate) fn start(&self, id: &str, patience: Patience<'_>) -> Result<(), EngineError> {
        let doing = format!("start container {id}");
        let path = path_of(id, &doing)? + "/start";
        self.call(Request::post(path, doing).repeatable(), patience)?.done().map(drop)
    }

    /// By id or exact name; none when there is none. (Engines also find by the beginning of an id: compare.)
    pub(crate) fn inspect(&self, id: &str, patience: Patience<'_>) -> Result<Option<Container>, EngineError> {
        let doing = format!("inspect container {id}");
        let path = path_of(id, &doing)? + "/json";
        let Some(answer) = unless_gone(self.call(Request::get(path, doing), patience))? else { return Ok(None) };
        Ok(Some(answer.json::<said::Container>()?.into()))
    }

    /// Waits in the engine, without polling, until a container is gone.
    fn wait_for_removal(&self, id: &str, patience: Patience<'_>) -> Result<(), EngineError> {
        let doing = format!("wait for the removal of container {id}");
        let path = path_of(id, &doing)? + "/wait";
        let request = Request::post(path, doing.clone()).query("condition", "removed").repeatable();
        let Some(answer) = unless_gone(self.call(request, patience))? else { return Ok(()) };
        match answer.json::<said::Exit>()?.error {
            Some(error) if !error.message.is_empty() => Err(EngineError::Reported { doing, message: error.message }),
            _ => Ok(()),
        }
    }

    /// The last lines of both streams of its log, as text, 64 KiB at most. Empty when there is no such container.
    pub(crate) fn log_tail(&self, id: &str, lines: usize, patience: Patience<'_>) -> Result<String, EngineError> {
        let Some(container) = self.inspect(id, patience)? else { return Ok(String::new()) };
        let doing = format!("read the log of container {id}");
        let path = path_of(id, &doing)? + "/logs";
        let request = Request::get(path, doing).query("stdout", "1").query("stderr", "1");
        let request = request.query("tail", &lines.to_string());
        let Some(mut answer) = unless_gone(self.call(request, patience))? else { return Ok(String::new()) };

        let mut tail = Tail::new(lines);
        let mut frames = Frames::default();
        let mut buffer = vec![0; 16 << 10];
        loop {
            match answer.read(&mut buffer)? {
                0 => return Ok(tail.into_text()),
                count if container.tty => tail.push(&buffer[..count]),
                count => frames
                    .push(&buffer[..count], &mut |contents| tail.push(contents))
                    .map_err(|header| answer.malformed(format!("{header:?} is not the header of a frame")))?,
            }
        }
    }

    /// Writes a file into a container, running or not, owned by root. The directory must exist.
    pub(crate) fn put_file(
        &self,
        id: &str,
        path: &str,
        contents: &[u8],
        mode: u32,
        patience: Patience<'_>,
    ) -> Result<(), EngineError> {
        let doing = format!("write {path} into container {id}");
        let (directory, name) = match path.rsplit_once('/') {
            Some((directory, name)) if path.starts_with('/') && !matches!(name, "" | "." | "..") => (directory, name),
            _ => return Err(EngineError::BadParameter { doing, message: "not the absolute path of a file".into() }),
        };
        let directory = if directory.is_empty() { "/" } else { directory };
        let tar = tar_file(name, contents, mode)
            .map_err(|error| EngineError::BadParameter { doing: doing.clone(), message: error.to_string() })?;
        let request = Request::put(path_of(id, &doing)? + "/archive", doing).query("path", directory);
        let request = Request { body: Body::Tar(&mut &tar[..]), ..request };
        self.call(request, patience)?.done().map(drop)
    }

    /// SIGTERM (or what the image asks for), and SIGKILL after the grace, in whole seconds. Blocks until it has exited;
    /// the patience should be longer than the grace.
    pub(crate) fn stop(&self, id: &str, grace: Duration, patience: Patience<'_>) -> Result<Ended, EngineError> {
        let doing = format!("stop container {id}");
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let request =
            Request::post(path_of(id, &doing)? + "/stop", doing).query("t", &seconds.to_string()).repeatable();
        match unless_gone(self.call(request, patience))? {
            None => Ok(Ended::Gone),
            Some(answer) => Ok(if answer.done()? == 304 { Ended::NotRunning } else { Ended::Done }),
        }
    }

    /// Kills it if it runs, and removes it with its anonymous volumes. Where somebody else removes it already, waits
    /// for that.
    pub(crate) fn remove(&self, id: &str, patience: Patience<'_>) -> Result<Ended, EngineError> {
        let doing = format!("remove container {id}");
        let request = Request::delete(path_of(id, &doing)?, doing).query("force", "1").query("v", "1");
        match unless_gone(self.call(request, patience)) {
            Ok(None) => Ok(Ended::Gone),
            Ok(Some(answer)) => answer.done().map(|_| Ended::Done),
            Err(EngineError::Status { status: 409, message, .. }) if message.contains("already in progress") => {
                self.wait_for_removal(id, patience)?;
                Ok(Ended::Gone)
            }
            Err(error) => Err(error),
        }
    }

    /// The containers, in whatever state, that have all these labels with exactly these values.
    pub(crate) fn list(&self, labels: &[(&str, &str)], patience: Patience<'_>) -> Result<Vec<Listed>, EngineError> {
        let wanted: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = Request::get("/containers/json", "list containers")
            .query("all", "1")
            .query("filters", &serde_json::json!({ "label": wanted }).to_string());
        let found = self.call(request, patience)?.json::<Option<Vec<said::Listed>>>()?.unwrap_or_default();
        let fits = |listed: &said::Listed| {
            labels.iter().all(|(name, value)| listed.labels.get(*name).is_some_and(|its| its == value))
        };
        Ok(found.into_iter().filter(fits).map(|listed| Listed { id: listed.id }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn podman_sends_null_for_what_is_empty() {
        let said = r#"{"Id":"4f","Name":"n","Image":null,"Extra":{},
            "State":{"Status":"exited","Running":false,"ExitCode":137,"OOMKilled":true,"Error":null},
            "Config":{"Labels":null,"Tty":false},"NetworkSettings":{"Networks":{"host":null}}}"#;
        let container: Container = serde_json::from_str::<said::Container>(said).unwrap().into();
        assert!(container.id == "4f" && container.labels.is_empty() && container.state.oom_killed);
        assert_eq!(container.state.exit_code, 137);
    }

    #[test]
    fn a_name_is_one_part_of_a_path() {
        assert_eq!(path_of("a-b.c_1", "x").unwrap(), "/containers/a-b.c_1");
        assert_eq!(path_of("../images?x#y%é", "x").unwrap(), "/containers/..%2Fimages%3Fx%23y%25%C3%A9");
        for name in ["", ".", ".."] {
            assert!(path_of(name, "x").unwrap_err().is_bad_parameter());
        }
    }
}
