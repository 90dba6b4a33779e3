//! The shape of the library as absences: who does not import whom, and what does not occur in the pure modules.
//!
//! Read from the sources as text. Code for tests (files `tests.rs`, `world.rs`, `explore.rs`, folders `tests`, and what
//! follows `#[cfg(test)]` in any other file) may do as it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules each module may name. `root`: what every user can name, and nothing private.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("printable", &[]),
    ("build", &["error"]),
    ("error", &["build", "printable"]),
    ("clock", &[]),
    ("removal", &[]),
    ("files", &["error"]),
    // The one loader of certificates and keys, whose errors never quote what was read.
    ("pem", &[]),
    // For tests alone.
    ("secrecy", &[]),
    ("command", &["error", "build", "files"]),
    ("journal", &["error", "build"]),
    ("worker", &["error", "build", "command", "journal"]),
    ("event", &["error", "build", "journal", "printable", "worker"]),
    ("lifecycle", &["worker", "build", "error", "event"]),
    ("build_status", &["build", "error", "event", "printable"]),
    ("placement", &["lifecycle", "worker", "build", "build_status", "error", "event"]),
    ("simulation", &["placement", "lifecycle", "worker", "build", "error", "event"]),
    (
        "runtime",
        &[
            "build",
            "build_status",
            "clock",
            "command",
            "error",
            "event",
            "files",
            "journal",
            "lifecycle",
            "placement",
            "printable",
            "worker",
        ],
    ),
    ("agent", &["root", "error", "build", "command", "pem", "printable", "worker"]),
    ("drivers", &["root", "pem", "printable", "removal"]),
    ("capi", &["root"]),
    ("testing", &["root"]),
];

/// What only computes: modules, and parts of modules that do more.
const PURE: &[&str] = &["build", "printable", "error", "event", "lifecycle", "placement", "simulation"];
const PURE_PARTS: &[&str] = &[
    "agent/msgpack.rs",
    "agent/codec.rs",
    "agent/session.rs",
    "agent/client/backoff.rs",
    "agent/client/codec.rs",
    "agent/client/session.rs",
    "agent/client/text.rs",
    "drivers/docker/body.rs",
    "drivers/docker/engine/registry.rs",
    "drivers/docker/master_address.rs",
    "drivers/docker/names.rs",
    "drivers/docker/settings.rs",
    "drivers/docker/verdict.rs",
    "drivers/ec2/ami.rs",
    "drivers/ec2/aws/element.rs",
    "drivers/ec2/aws/ini.rs",
    "drivers/ec2/aws/error.rs",
    "drivers/ec2/aws/pace.rs",
    "drivers/ec2/aws/profile.rs",
    "drivers/ec2/aws/query.rs",
    "drivers/ec2/aws/request.rs",
    "drivers/ec2/aws/sign.rs",
    "drivers/ec2/aws/time.rs",
    "drivers/ec2/aws/tries.rs",
    "drivers/ec2/launch.rs",
    "drivers/ec2/names.rs",
    "drivers/ec2/offers.rs",
    "drivers/ec2/settings.rs",
    "drivers/ec2/state.rs",
    "drivers/given.rs",
    "drivers/identity.rs",
    "drivers/setting.rs",
    "drivers/veil/framing.rs",
    "journal/record.rs",
    "journal/recovery.rs",
    "journal/schedule.rs",
    "testing/checker/life.rs",
    "testing/checker/mod.rs",
    "testing/checker/reader.rs",
    "testing/conformance/report.rs",
    "testing/faulty_http/head.rs",
];
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "std::thread",
    "thread::",
    "std::fs",
    "std::net",
    "std::io",
    "std::process",
    "Mutex",
    "RwLock",
    "Condvar",
    "Atomic",
    "crossbeam_channel",
    "log::",
    "println!",
    "fastrand",
    "getrandom",
    "sleep(",
    "dyn LatentWorker",
];

/// Traits that user code implements, and values that the pure modules therefore must not call.
const CALLS_INTO_USER_CODE: &[&str] =
    &[".start_instance(", ".stop_instance(", ".check_instance(", ".is_compatible_with", ".reclaim("];

#[test]
fn modules_import_only_what_they_may() {
    let mut broken = Vec::new();
    for (module, sources) in modules() {
        let allowed = MAY_IMPORT.iter().find(|(name, _)| *name == module);
        let Some((_, allowed)) = allowed else {
            broken.push(format!("{module}: a module that the table of imports does not know"));
            continue;
        };
        for (path, code) in sources {
            for import in imports(&code) {
                // Types and functions of the root begin with a capital or are constants; modules do not.
                let is_module = import.starts_with(|first: char| first.is_lowercase());
                let permitted = if is_module {
                    import == module || allowed.contains(&import.as_str())
                } else {
                    allowed.contains(&"root")
                };
                if !permitted {
                    broken.push(format!("{}: {module} must not name crate::{import}", path.display()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn pure_modules_stay_pure() {
    let mut broken = Vec::new();
    let mut parts = 0;
    for (module, sources) in modules() {
        for (path, code) in sources {
            let is_part = PURE_PARTS.iter().any(|part| path.ends_with(part));
            parts += usize::from(is_part);
            if !is_part && !PURE.contains(&module.as_str()) {
                continue;
            }
            for word in IMPURE.iter().chain(CALLS_INTO_USER_CODE) {
                // Errors carry what the system said; that is a value like any other.
                let allowed = module == "error" && *word == "std::io";
                if code.contains(word) && !allowed && !is_origin(&path, word) {
                    broken.push(format!("{}: {word}", path.display()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert_eq!(parts, PURE_PARTS.len(), "a pure part was not found");
}

/// Virtual time begins at some moment, and the clock is the only source of one. Nothing depends on which it is.
fn is_origin(path: &Path, word: &str) -> bool {
    path.ends_with("simulation/run.rs") && word == "Instant::now"
}

#[test]
fn only_the_runtime_has_threads_and_locks_besides_agent_capi_drivers_testing_and_the_file_of_the_journal() {
    for (module, sources) in modules() {
        if ["agent", "capi", "runtime", "drivers", "testing"].contains(&module.as_str()) {
            continue;
        }
        for (path, code) in sources.into_iter().filter(|(path, _)| !path.ends_with("journal/file.rs")) {
            for word in ["std::thread", "Mutex", "Condvar", "Instant::now", "catch_unwind"] {
                assert!(!code.contains(word) || is_origin(&path, word), "{}: {word}", path.display());
            }
        }
    }
}

#[test]
fn there_is_no_async() {
    for (_, sources) in modules() {
        for (path, code) in sources {
            for word in ["async fn", ".await"] {
                assert!(!code.contains(word), "{}: {word}", path.display());
            }
        }
    }
}

/// The C ABI cannot do without; there it is allowed once, for all of it.
#[test]
fn there_is_no_unsafe_code_but_in_the_c_abi() {
    let mut allowed = Vec::new();
    for (module, sources) in modules() {
        for (path, code) in sources {
            assert!(module == "capi" || !code.contains("unsafe"), "{}: unsafe", path.display());
            if code.contains("allow(unsafe_code") {
                allowed.push(path);
            }
        }
    }
    assert_eq!(allowed, [source_folder().join("capi/mod.rs")]);
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"deny\""));
}

/// Nothing gets in or out of the C ABI but through the one function that keeps panics and forked processes away.
#[test]
fn every_exported_function_goes_through_the_boundary() {
    let sources = &modules()["capi"];
    let mut functions = Vec::new();
    for (path, code) in sources {
        assert_eq!(code.matches("no_mangle").count(), exported(code).len(), "{}", path.display());
        for (name, body) in exported(code) {
            assert!(goes_through_the_boundary(&name, &body), "{name}: {body}");
            functions.push(name);
        }
    }
    assert!(functions.len() > 50, "the functions were not found: {functions:?}");
}

/// Its body is a call of `boundary` and nothing else; but the one function that returns no code does more, word for word.
fn goes_through_the_boundary(name: &str, body: &str) -> bool {
    let returns_a_text = "let mut message = c\"\".as_ptr();\n    let code = boundary(|| {\n        \
        message = boundary::last_message();\n        Ok(())\n    });\n    \
        if code == lw_code::LW_OK { message } else { boundary::last_message() }";
    if name == "lw_last_error_message" {
        return body.trim() == returns_a_text;
    }
    let Some(rest) = body.trim().strip_prefix("boundary(") else { return false };
    let mut depth = 1;
    let end = rest.find(|character| {
        depth += match character {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth == 0
    });
    end == Some(rest.len() - 1)
}

/// The checks themselves can fail.
#[test]
fn what_goes_past_the_boundary_is_seen() {
    let is_fine = |body| goes_through_the_boundary("lw_name", body);
    assert!(is_fine("    boundary(|| Ok(f()))"));
    assert!(is_fine("    boundary(|| {\n        f(g());\n        Ok(())\n    })"));
    assert!(!is_fine("    f();\n    boundary(|| Ok(()))"));
    assert!(!is_fine("    boundary(|| Ok(()));\n    f()"));
    assert!(!is_fine("    boundary(|| Ok(())).and(f())"));
    assert!(!is_fine("    boundary(|| Ok(()));\n    boundary(|| Ok(()))"));
    assert!(!is_fine("    f()"));
    assert!(!goes_through_the_boundary("lw_last_error_message", "    boundary(|| Ok(()))"));
}

/// The version of the shared library begins with that of its ABI: the loader goes by the one, programs by the other.
#[test]
fn the_shared_library_has_the_version_of_its_abi() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let table = manifest.split("\n[").find_map(|table| table.strip_prefix("package.metadata.capi.library]")).unwrap();
    let version = table.lines().find_map(|line| line.strip_prefix("version = \"")).unwrap();
    let root = fs::read_to_string(source_folder().join("capi/mod.rs")).unwrap();
    let abi = root.split("pub const LW_ABI_VERSION: u32 = ").nth(1).unwrap().split(';').next().unwrap();
    assert_eq!(version.split('.').next().unwrap(), abi);
}

/// The functions that C can see, and what is in them: from the brace that opens at the end of a line to the one that
/// stands alone.
fn exported(code: &str) -> Vec<(String, String)> {
    let functions = code.split("pub extern \"C\" fn ").skip(1);
    let parts = functions.map(|function| {
        let name = first_name(function).unwrap();
        let body = function.split_once("{\n").unwrap().1.split_once("\n}\n").unwrap().0;
        (name, body.to_owned())
    });
    parts.collect()
}

/// The front door has no logic.
#[test]
fn the_root_only_declares_and_re_exports() {
    let root = source_folder().join("lib.rs");
    for line in code_of(&fs::read_to_string(root).unwrap()).lines() {
        assert!(!line.contains("fn ") && !line.contains("struct ") && !line.contains("impl "), "lib.rs: {line}");
    }
}

/// The checks themselves can fail.
#[test]
fn the_scanner_sees_imports() {
    let code = code_of(
        "// crate::comment\nuse crate::runtime::{A, B};\nuse crate::{Master, error::X};\n\
         fn f() {\n    #[cfg(test)]\n    crate::hook::hook();\n    crate::event::g()\n}\n\
         #[cfg(test)]\nuse crate::testing::T;",
    );
    let expected: BTreeSet<String> = ["runtime", "Master", "error", "event"].map(String::from).into();
    assert_eq!(imports(&code), expected);
}

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The code of every top-level module, by file.
fn modules() -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let mut modules = BTreeMap::new();
    for entry in fs::read_dir(source_folder()).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_code = path.is_dir() || path.extension().is_some_and(|extension| extension == "rs");
        if is_code && module != "lib" {
            let mut sources = Vec::new();
            collect(&path, &mut sources);
            modules.insert(module, sources);
        }
    }
    assert!(modules.len() >= 10, "the sources were not found");
    modules
}

fn collect(path: &Path, sources: &mut Vec<(PathBuf, String)>) {
    if path.is_dir() && !path.ends_with("tests") {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), sources);
        }
    } else if path.is_file() {
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".rs") && !["tests.rs", "world.rs", "explore.rs"].contains(&name) {
            sources.push((path.to_owned(), code_of(&fs::read_to_string(path).unwrap())));
        }
    }
}

/// Without comments and without what is only compiled for tests at the end of the file.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            match lines.peek() {
                // A module in a file of its own, the next line is its declaration; or one statement within a function.
                Some(next)
                    if next.trim_end().ends_with(';')
                        && (next.trim_start().starts_with("mod ") || line.starts_with(' ')) =>
                {
                    lines.next();
                    continue;
                }
                _ => break,
            }
        }
        code.push_str(line.split("//").next().unwrap_or_default());
        code.push('\n');
    }
    code
}

/// The first names after `crate::`, also within braces.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut item = String::new();
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 || (depth == 1 && character == ',') {
                    found.extend(first_name(item.trim()));
                    item.clear();
                } else {
                    item.push(character);
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            found.extend(first_name(rest));
        }
    }
    found
}

fn first_name(path: &str) -> Option<String> {
    let name: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}
