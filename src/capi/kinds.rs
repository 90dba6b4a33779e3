//! The kinds of workers that come with the library, with their settings as C has them.
//!
//! Every function is there in every build; a kind that was left out answers LW_ERROR_UNSUPPORTED.

use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;
use std::ptr;

use super::argument::Growing;
#[allow(unused_imports, reason = "not every build has a kind that needs all of them")]
use super::argument::{items, optional_structure, optional_text, setting_ms, structure, text, texts};
#[allow(unused_imports, reason = "not every build lacks a kind")]
use super::boundary::{Failure, Result, boundary};
use super::build::lw_property;
use super::code::lw_code;
use super::master::lw_master;
#[allow(unused_imports, reason = "not every build has a kind")]
use super::worker;
use super::worker::{lw_worker, lw_worker_options};

/// One kind of local instances. Set `size` and `name`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lw_local_kind {
    /// sizeof(lw_local_kind).
    pub size: usize,
    /// The name by which builds choose it; "default" for builds that choose none. Not NULL.
    pub name: *const c_char,
    /// A directory that every instance begins as a copy of. NULL: an empty one.
    pub template_directory: *const c_char,
    /// Changes to the environment of all commands; a value that is NULL removes the variable.
    pub environment: *const lw_property,
    /// How many there are.
    pub environment_count: usize,
}

// SAFETY: integers and raw pointers, the size first.
unsafe impl Growing for lw_local_kind {}

/// Settings of local workers: a private directory for each instance, and commands as child processes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lw_local_options {
    /// sizeof(lw_local_options).
    pub size: usize,
    /// Where the directories of instances are made; it is created if it does not exist. NULL: the directory for
    /// temporary files.
    pub root: *const c_char,
    /// The name of the build property that chooses the kind. NULL: "kind".
    pub kind_property: *const c_char,
    /// Pointers to the kinds that there are beside the empty default; one that is named "default" replaces that.
    pub kinds: *const *const lw_local_kind,
    /// How many there are.
    pub kind_count: usize,
}

// SAFETY: integers and raw pointers, the size first.
unsafe impl Growing for lw_local_options {}

/// Settings of workers whose instances are started, checked and stopped by programs. Set `size`, `start` and `stop`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lw_command_options {
    /// sizeof(lw_command_options).
    pub size: usize,
    /// The program that starts an instance, and its arguments.
    pub start: *const *const c_char,
    /// How many there are, the program included.
    pub start_count: usize,
    /// The program that stops it.
    pub stop: *const *const c_char,
    /// How many there are, the program included.
    pub stop_count: usize,
    /// The program that checks it. NULL: none.
    pub check: *const *const c_char,
    /// How many there are, the program included.
    pub check_count: usize,
    /// The program that removes what an attempt has left behind. NULL: the stop program is used.
    pub reclaim: *const *const c_char,
    /// How many there are, the program included.
    pub reclaim_count: usize,
    /// The names of properties that make a difference: an instance is only used for builds with the same values.
    pub compatible_by: *const *const c_char,
    /// How many there are.
    pub compatible_by_count: usize,
    /// How long a program that is ended has between SIGTERM and SIGKILL; 0: 10 s.
    pub grace_ms: u64,
    /// How long the stop program, or the reclaim program, may run; 0: 10 minutes.
    pub stop_limit_ms: u64,
    /// How long the check program may run; 0: 1 minute.
    pub check_limit_ms: u64,
    /// Not 0: the secret is handed over in a file and not in the environment.
    pub secret_in_file: i32,
    /// Not used.
    pub reserved: i32,
}

// SAFETY: integers and raw pointers, the size first.
unsafe impl Growing for lw_command_options {}

/// Settings of workers whose instances are child processes, each of them an agent. Set `size` and `agent`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lw_process_options {
    /// sizeof(lw_process_options).
    pub size: usize,
    /// The program that is the agent, and its arguments.
    pub agent: *const *const c_char,
    /// How many there are, the program included.
    pub agent_count: usize,
    /// The names of properties that make a difference: an instance is only used for builds with the same values.
    pub compatible_by: *const *const c_char,
    /// How many there are.
    pub compatible_by_count: usize,
    /// How long the agent has between SIGTERM and SIGKILL, 1 s at most when the stop is fast; 0: 10 s.
    pub grace_ms: u64,
    /// Not 0: the secret is handed over in a file and not in the environment.
    pub secret_in_file: i32,
    /// Not 0: creates a directory for each instance and removes it with the instance. LATENT_WORKER_DIRECTORY in the
    /// environment of the agent is its path.
    pub private_directory: i32,
}

// SAFETY: integers and raw pointers, the size first.
unsafe impl Growing for lw_process_options {}

/// Adds a worker on this machine. local may be NULL; added may be NULL, and is to be freed with lw_worker_free. Unix
/// only.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_add_local(
    master: *mut lw_master,
    options: *const lw_worker_options,
    local: *const lw_local_options,
    added: Option<&mut MaybeUninit<*mut lw_worker>>,
) -> lw_code {
    boundary(|| {
        #[cfg(all(feature = "local", unix))]
        return worker::add(master, options, added, || local_from(local));
        #[cfg(not(all(feature = "local", unix)))]
        missing("local workers", "local", added, (master, options, local))
    })
}

/// Adds a worker whose instances are started and stopped by programs. added may be NULL, and is to be freed with
/// lw_worker_free. Unix only.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_add_command(
    master: *mut lw_master,
    options: *const lw_worker_options,
    command: *const lw_command_options,
    added: Option<&mut MaybeUninit<*mut lw_worker>>,
) -> lw_code {
    boundary(|| {
        #[cfg(all(feature = "command", unix))]
        return worker::add(master, options, added, || command_from(command));
        #[cfg(not(all(feature = "command", unix)))]
        missing("workers made by programs", "command", added, (master, options, command))
    })
}

/// Adds a worker whose instances are child processes that attach by themselves. added may be NULL, and is to be freed
/// with lw_worker_free. Unix only.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_add_process(
    master: *mut lw_master,
    options: *const lw_worker_options,
    process: *const lw_process_options,
    added: Option<&mut MaybeUninit<*mut lw_worker>>,
) -> lw_code {
    boundary(|| {
        #[cfg(all(feature = "process", unix))]
        return worker::add(master, options, added, || process_from(process));
        #[cfg(not(all(feature = "process", unix)))]
        missing("workers that are processes", "process", added, (master, options, process))
    })
}

/// Adds a worker whose instances are containers. added may be NULL, and is to be freed with lw_worker_free. Unix only.
///
/// settings is a JSON object. Only image is needed. Texts are templates: "{name}" is replaced by that property of the
/// build, "{name:-default}" by the default when the build has no such property, "{{" and "}}" by single braces:
///
/// image, platform, network, hostname, master_address: texts. command: a list of texts. env, labels: objects of texts.
/// volumes: a list of texts "source:/target[:options]". memory: a text, "512M". cpus: a number or a text. init: true or
/// false. pull: "missing", "never" or "always". host_config: an object, as the engine's API has it.
///
/// These are not templates. dockerfile: the text of a Dockerfile that the image is built from when it is missing;
/// build_directory: or a directory with one. engine: the engine's address, as DOCKER_HOST has it. registries: a list of
/// objects with registry ("ghcr.io", "localhost:5000"), user and password, which are sent for images of that registry
/// only. secret_in_file: true or false. stop_grace_ms: a number.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_add_docker(
    master: *mut lw_master,
    options: *const lw_worker_options,
    settings: *const c_char,
    added: Option<&mut MaybeUninit<*mut lw_worker>>,
) -> lw_code {
    boundary(|| {
        #[cfg(all(feature = "docker", unix))]
        return worker::add(master, options, added, || super::docker::driver_from(text("settings", settings)?));
        #[cfg(not(all(feature = "docker", unix)))]
        missing("containers", "docker", added, (master, options, settings))
    })
}

/// Adds a worker whose instances are machines of Amazon EC2. added may be NULL, and is to be freed with lw_worker_free.
///
/// settings is a JSON object. image and offers are needed, unless there is a launch_template that says them; all else
/// is optional. Templates are as those of lw_master_add_docker.
///
/// Templates: image ("ami-...", or "ssm:" and the name of a parameter), launch_template, subnet, key_pair,
/// placement_group, tenancy, profile, user_data, elastic_ip, master_address. Lists of templates: offers ("c7i.large",
/// "c7i.large:spot<0.08", "c7i.large@subnet-1"), security_groups. Objects of templates: tags, by name; volumes, by
/// device.
///
/// These are not templates. Texts: secret_in_parameter, region, endpoint, aws_profile. at_stop: "terminate", "stop" or
/// "hibernate". metadata: "token_required", "token_optional" or "off". Numbers: poll_interval_ms, call_limit_ms,
/// start_limit_ms, stop_limit_ms, listing_lag_ms, shortage_memory_ms, attached_check_interval_ms. block_devices: a list of
/// objects with device, size_gib, volume_type, iops, throughput, encrypted, kms_key, snapshot, kept_after_termination.
/// credentials: an object with access_key_id, secret_access_key and perhaps session_token.
#[unsafe(no_mangle)]
pub extern "C" fn lw_master_add_ec2(
    master: *mut lw_master,
    options: *const lw_worker_options,
    settings: *const c_char,
    added: Option<&mut MaybeUninit<*mut lw_worker>>,
) -> lw_code {
    boundary(|| {
        #[cfg(feature = "ec2")]
        return worker::add(master, options, added, || super::ec2::driver_from(text("settings", settings)?));
        #[cfg(not(feature = "ec2"))]
        missing("machines of EC2", "ec2", added, (master, options, settings))
    })
}

/// What may be left out of a build, and whether it is in this one.
const FEATURES: [(&str, bool); 7] = [
    ("local", cfg!(all(feature = "local", unix))),
    ("command", cfg!(all(feature = "command", unix))),
    ("process", cfg!(all(feature = "process", unix))),
    ("agent", cfg!(feature = "agent")),
    ("tls", cfg!(feature = "tls")),
    ("docker", cfg!(all(feature = "docker", unix))),
    ("ec2", cfg!(feature = "ec2")),
];

/// Whether this build of the library has a feature: "local", "command", "process", "agent", "tls", "docker" or "ec2".
/// has gets 1 or 0; 0 for any other name.
#[unsafe(no_mangle)]
pub extern "C" fn lw_has_feature(name: *const c_char, has: Option<&mut MaybeUninit<c_int>>) -> lw_code {
    boundary(|| {
        let has = super::argument::place("has", has, 0)?;
        let name = super::argument::text("name", name)?;
        *has = c_int::from(FEATURES.contains(&(name, true)));
        Ok(())
    })
}

#[allow(dead_code, reason = "a build with all features lacks nothing")]
fn missing<A>(what: &str, feature: &str, added: Option<&mut MaybeUninit<*mut lw_worker>>, _: A) -> Result<()> {
    added.map(|added| added.write(ptr::null_mut()));
    Err(Failure::not_built(what, feature))
}

#[cfg(all(feature = "local", unix))]
fn local_from(options: *const lw_local_options) -> Result<crate::LocalLatentWorker> {
    let given = optional_structure("local", options)?;
    let mut driver = crate::LocalLatentWorker::new();
    if let Some(root) = optional_text("local.root", given.root)? {
        driver = driver.root(root);
    }
    if let Some(property) = optional_text("local.kind_property", given.kind_property)? {
        driver = driver.kind_property(property);
    }
    for kind in items("local.kinds", given.kinds, given.kind_count)? {
        let given = structure("local.kinds", *kind)?;
        let mut kind = crate::LocalKind::new();
        if let Some(directory) = optional_text("kind.template_directory", given.template_directory)? {
            kind = kind.template(directory);
        }
        for variable in items("kind.environment", given.environment, given.environment_count)? {
            let name = text("the name of a variable in kind.environment", variable.name)?;
            kind = match optional_text("a value in kind.environment", variable.value)? {
                Some(value) => kind.env(name, value),
                None => kind.env_remove(name),
            };
        }
        driver = driver.kind(text("kind.name", given.name)?, kind);
    }
    Ok(driver)
}

/// A program and its arguments.
#[cfg(all(any(feature = "command", feature = "process"), unix))]
fn program<'a>(what: &str, words: *const *const c_char, count: usize) -> Result<Vec<&'a str>> {
    match texts(what, words, count)? {
        words if words.is_empty() => Err(Failure::argument(format!("{what} must name a program"))),
        words => Ok(words),
    }
}

#[cfg(all(feature = "command", unix))]
fn command_from(options: *const lw_command_options) -> Result<crate::CommandLatentWorker> {
    let given = structure("command", options)?;
    let mut driver = crate::CommandLatentWorker::new(
        program("command.start", given.start, given.start_count)?,
        program("command.stop", given.stop, given.stop_count)?,
    )
    .compatible_by(texts("command.compatible_by", given.compatible_by, given.compatible_by_count)?);
    if given.check_count != 0 {
        driver = driver.check(program("command.check", given.check, given.check_count)?);
    }
    if given.reclaim_count != 0 {
        driver = driver.reclaim(program("command.reclaim", given.reclaim, given.reclaim_count)?);
    }
    if let Some(grace) = setting_ms(given.grace_ms) {
        driver = driver.grace(grace);
    }
    if let Some(limit) = setting_ms(given.stop_limit_ms) {
        driver = driver.stop_limit(limit);
    }
    if let Some(limit) = setting_ms(given.check_limit_ms) {
        driver = driver.check_limit(limit);
    }
    Ok(if given.secret_in_file != 0 { driver.secret_in_file() } else { driver })
}

#[cfg(all(feature = "process", unix))]
fn process_from(options: *const lw_process_options) -> Result<crate::ProcessLatentWorker> {
    let given = structure("process", options)?;
    let mut driver = crate::ProcessLatentWorker::new(program("process.agent", given.agent, given.agent_count)?)
        .compatible_by(texts("process.compatible_by", given.compatible_by, given.compatible_by_count)?);
    if let Some(grace) = setting_ms(given.grace_ms) {
        driver = driver.grace(grace);
    }
    if given.private_directory != 0 {
        driver = driver.private_directory();
    }
    Ok(if given.secret_in_file != 0 { driver.secret_in_file() } else { driver })
}

/// What a driver shows of itself tells where each setting has gone.
#[cfg(all(test, feature = "local", feature = "command", feature = "process", unix))]
mod tests {
    use std::ffi::CStr;
    use std::fmt;
    use std::mem::size_of;

    use super::*;

    fn shown<D: fmt::Debug>(driver: Result<D>) -> String {
        format!("{:?}", driver.unwrap())
    }

    fn pointers<const N: usize>(words: [&CStr; N]) -> [*const c_char; N] {
        words.map(CStr::as_ptr)
    }

    #[test]
    fn settings_of_programs_have_the_defaults_of_the_header() {
        let (start, stop) = (pointers([c"/start"]), pointers([c"/stop"]));
        let given = lw_command_options {
            size: size_of::<lw_command_options>(),
            start: start.as_ptr(),
            start_count: 1,
            stop: stop.as_ptr(),
            stop_count: 1,
            ..optional_structure("zeros", ptr::null()).unwrap()
        };
        assert_eq!(
            shown(command_from(&raw const given)),
            "CommandLatentWorker { start: \"/start\", stop: \"/stop\", check: None, reclaim: None, grace: 10s, \
             stop_limit: 600s, restart_hurried_stop: false, check_limit: 60s, secret_in_file: false, \
             compatible_by: [], .. }"
        );
        let (check, reclaim, names) = (pointers([c"/check"]), pointers([c"/reclaim"]), pointers([c"a", c"b"]));
        let given = lw_command_options {
            check: check.as_ptr(),
            check_count: 1,
            reclaim: reclaim.as_ptr(),
            reclaim_count: 1,
            compatible_by: names.as_ptr(),
            compatible_by_count: 2,
            grace_ms: 1,
            stop_limit_ms: 2,
            check_limit_ms: 3,
            secret_in_file: -1,
            ..given
        };
        assert_eq!(
            shown(command_from(&raw const given)),
            "CommandLatentWorker { start: \"/start\", stop: \"/stop\", check: Some(\"/check\"), \
             reclaim: Some(\"/reclaim\"), grace: 1ms, stop_limit: 2ms, restart_hurried_stop: false, check_limit: 3ms, secret_in_file: true, \
             compatible_by: [\"a\", \"b\"], .. }"
        );
    }

    #[test]
    fn settings_of_processes_have_the_defaults_of_the_header() {
        let (agent, names) = (pointers([c"/agent"]), pointers([c"a"]));
        let given = lw_process_options {
            size: size_of::<lw_process_options>(),
            agent: agent.as_ptr(),
            agent_count: 1,
            ..optional_structure("zeros", ptr::null()).unwrap()
        };
        assert_eq!(
            shown(process_from(&raw const given)),
            "ProcessLatentWorker { agent: \"/agent\", grace: 10s, secret_in_file: false, private_directory: false, \
             compatible_by: [], .. }"
        );
        let given = lw_process_options {
            compatible_by: names.as_ptr(),
            compatible_by_count: 1,
            grace_ms: 1,
            secret_in_file: 1,
            ..given
        };
        let secret = "ProcessLatentWorker { agent: \"/agent\", grace: 1ms, secret_in_file: true, \
                      private_directory: false, compatible_by: [\"a\"], .. }";
        assert_eq!(shown(process_from(&raw const given)), secret);
        let given = lw_process_options { secret_in_file: 0, private_directory: 1, ..given };
        let private = "ProcessLatentWorker { agent: \"/agent\", grace: 1ms, secret_in_file: false, \
                       private_directory: true, compatible_by: [\"a\"], .. }";
        assert_eq!(shown(process_from(&raw const given)), private);
    }

    #[test]
    fn settings_of_local_workers_have_the_defaults_of_the_header() {
        assert_eq!(shown(local_from(ptr::null())), format!("{:?}", crate::LocalLatentWorker::new()));
    }
}
