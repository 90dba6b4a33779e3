//! The conformance kit for drivers.

mod checks;
mod gate;
mod observed;
mod record;
mod report;
mod run;
mod stage;
mod subject;

pub use report::{Finding, Report, Verdict};
pub use subject::{Fault, Injection, Subject};

use run::run;
