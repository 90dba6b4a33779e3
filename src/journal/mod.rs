//! What outlives the process: which instances may exist, so that the next master can take away what this one could not.
//!
//! `record` is one line of the file and `recovery` what all lines together mean; `schedule` decides when to try again
//! to get rid of what is left. These three only compute. `file` is the file itself: appended to, synced, locked,
//! rewritten. Whose instances they are, and how one is taken away, is the business of the runtime and of the drivers.

mod file;
mod record;
mod recovery;
mod schedule;

#[cfg(feature = "testing")]
pub use file::JournalStep;
pub(crate) use file::{Journal, Steps, Until, seconds_since_1970};
pub use file::{JournalContents, read_journal};
pub(crate) use record::{Attempt, Record};
pub(crate) use recovery::Remains;
pub use recovery::{JournalInstance, LeftoverStage};
pub(crate) use schedule::{Entry, Leftovers, Origin, Outcome, Plan};
