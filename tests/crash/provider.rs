//! A provider of instances that are files, as a cloud is one: it makes up the id, tags the instance with what it is
//! told, and can be asked for all instances with a tag. It keeps the truth: what was made, and every breach of a
//! promise.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::life::{alone_with, point};
use latent_worker::{
    Attachment, LatentWorker, Leftover, LeftoverStage, Reclaimed, StartError, StartRequest, Started, StopError,
    StopRequest,
};

pub(crate) struct Provider {
    directory: PathBuf,
    /// Stops of workers whose name begins with `stubborn` fail once.
    failed: AtomicUsize,
}

pub(crate) struct Instance {
    id: String,
    _attachment: Attachment,
}

impl Provider {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), failed: AtomicUsize::new(0) }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.join("instances").join(id)
    }

    fn tell(&self, file: &str, line: &str) {
        let path = self.directory.join(file);
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn told(&self, file: &str, line: &str) -> bool {
        fs::read_to_string(self.directory.join(file)).unwrap_or_default().lines().any(|told| told == line)
    }

    fn create(&self, start: &StartRequest<'_>) -> String {
        let id = format!("i-{:016x}", fastrand::u64(..));
        let tag = format!("{} {}", start.owner(), start.key());
        // The truth is told first, for whatever is made is made at one stroke.
        self.tell("created", &format!("{id} {tag}"));
        let new = self.directory.join(format!("{id}.new"));
        fs::write(&new, &tag).unwrap();
        point();
        fs::rename(new, self.path(&id)).unwrap();
        point();
        id
    }

    /// The instances with exactly this tag.
    fn tagged(&self, owner: &str, key: &str) -> Vec<String> {
        let tag = format!("{owner} {key}");
        let entries = fs::read_dir(self.directory.join("instances")).unwrap().map(|entry| entry.unwrap().path());
        let tagged = entries.filter(|path| fs::read_to_string(path).is_ok_and(|found| found == tag));
        tagged.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    /// What is not there counts as removed.
    fn remove(&self, id: &str) {
        point();
        if self.path(id).exists() {
            point();
            fs::remove_file(self.path(id)).unwrap();
        }
        point();
    }
}

impl LatentWorker for Provider {
    type Instance = Instance;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Instance>, StartError> {
        point();
        self.tell("keys", start.key());
        let unstopped = !self.tagged(start.owner(), start.key()).is_empty();
        if unstopped || !fs::read_to_string(self.directory.join("journal")).unwrap().contains(start.key()) {
            self.tell("violations", "j1: a start without an intent, or with a key that was used");
        }
        let id = self.create(start);
        start.record(&id)?;
        self.tell("used", &id);
        point();
        if start.worker().starts_with("broken") {
            return Err(StartError::infrastructure("it broke after it was made"));
        }
        let attachment = start.attacher().attach(())?;
        point();
        Ok(Started::new(Instance { id, _attachment: attachment }))
    }

    fn stop_instance(&self, stop: StopRequest<Instance>) -> Result<(), StopError> {
        let _alone = alone_with(&self.directory, stop.key());
        point();
        if stop.worker().starts_with("stubborn") && self.failed.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(StopError::new("not now"));
        }
        match stop.instance() {
            Some(instance) => self.remove(&instance.id),
            None => self.tagged(stop.owner(), stop.key()).iter().for_each(|id| self.remove(id)),
        }
        point();
        Ok(())
    }

    fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, StopError> {
        let _alone = alone_with(&self.directory, leftover.key());
        point();
        let tag = format!("{} {}", leftover.owner(), leftover.key());
        for id in leftover.ids() {
            if !self.told("created", &format!("{id} {tag}")) {
                self.tell("violations", &format!("j2: {id} of {tag} was never made"));
            }
        }
        // Before an id is used it is durable; and every instance that is known has been made.
        let used = self.tagged(leftover.owner(), leftover.key()).iter().any(|id| self.told("used", id));
        if leftover.stage() == LeftoverStage::Intended && used {
            self.tell("violations", &format!("j1: {tag} was used and is not known"));
        }
        leftover.ids().for_each(|id| self.remove(id));
        self.tagged(leftover.owner(), leftover.key()).iter().for_each(|id| self.remove(id));
        point();
        Ok(Reclaimed::Gone)
    }
}
