//! The kinds that a driver says, and whether its instances are of them.

use std::time::{Duration, Instant};

use super::super::stage::{Proved, Stage, Unproved, broken};
use super::super::subject::Fault;
use super::life;
use crate::testing::conformance::observed::AnyDriver;
use crate::{Build, Kind};

/// How long `kind` may take at its best of some calls: much longer than to compute something, and shorter than most
/// questions to somebody else.
const LONGEST: Duration = Duration::from_millis(100);

type Said = Result<Kind, String>;

pub(super) fn agree(stage: &Stage) -> Proved {
    let driver = stage.driver();
    if !driver.says_kinds() {
        return match driver.kind(stage.build()) {
            Ok(kind) if kind == Kind::by_properties() => Ok(()),
            _ => broken("kind is implemented, and never called: says_kinds says that the driver says none"),
        };
    }
    let means = &stage.means;
    let others = [&means.incompatible, &means.failing, &means.impossible, &means.dying, &means.silent];
    for build in [stage.build()].into_iter().chain(others.into_iter().flatten()) {
        let said = pure(&*driver, build)?;
        // What is right about a build can be said by every driver with the same settings.
        same(build, &said, &pure(&*stage.driver(), build)?, "by a driver of the same settings")?;
        for fault in [Fault::Unavailable, Fault::Throttled] {
            if !means.faults.contains_key(&fault) {
                continue;
            }
            let injection = stage.inject(fault)?;
            let name = format!("with Fault::{fault:?}");
            same(build, &said, &pure(&*driver, build)?, &name)?;
            if injection.met().is_some_and(|met| met > 0) {
                return broken(format!("kind asks the provider: it has met Fault::{fault:?}"));
            }
        }
    }
    let said = driver.kind(stage.build());
    if let Err(error) = &said {
        return broken(format!("the build that instances are started for has no kind: {error}"));
    }
    let Some(other) = &means.incompatible else { return Ok(()) };
    match driver.kind(other) {
        Err(error) => return broken(format!("the build that an instance does not fit has no kind: {error}")),
        kind if kind == said => {
            return broken(format!("kind says of builds that cannot use the same instance: {kind:?}"));
        }
        Ok(_) => {}
    }
    if !driver.builds_may_be_incompatible() {
        return Ok(()); // it leaves everything to its kinds
    }
    life::recycles(stage, true).map_err(|unproved| match unproved {
        Unproved::Broken(reason) => Unproved::Broken(format!("without its kinds: {reason}")),
        not_tried => not_tried,
    })
}

/// The same every time, and soon.
fn pure(driver: &dyn AnyDriver, build: &Build) -> Proved<Said> {
    let mut best = Duration::MAX;
    let mut call = || {
        let began = Instant::now();
        let said = driver.kind(build);
        best = best.min(began.elapsed());
        said
    };
    let first = call();
    for _ in 0..9 {
        same(build, &first, &call(), "the next time")?;
    }
    if best > LONGEST {
        return broken(format!("kind takes at least {best:?}: it must not wait for anything"));
    }
    Ok(first)
}

fn same(build: &Build, one: &Said, other: &Said, when: &str) -> Proved {
    if one.is_err() && other.is_err() || one == other {
        return Ok(());
    }
    broken(format!("the kind of the build {:?} is {one:?}, and {when} {other:?}", build.name()))
}
