//! A provider that lives in memory and can be disturbed, and a driver for it that does all it should. With a [`Flaw`]
//! the driver does one thing that it should not.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use latent_worker::testing::conformance::{Fault, Injection, Subject};
use latent_worker::{
    BoxError, Build, FailureCause, Health, Kind, LatentWorker, Leftover, Properties, Reclaimed, StartError,
    StartRequest, Started, StopError, StopRequest,
};

#[derive(Clone, Default)]
pub(crate) struct Cloud(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By name, which the client chooses.
    machines: BTreeMap<String, Machine>,
    /// Those in force, and how often they were met.
    faults: BTreeMap<Fault, u64>,
    /// What listings show while they lag.
    stale: Vec<(String, Machine)>,
}

#[derive(Clone)]
struct Machine {
    worker: String,
    dead: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CloudError {
    #[error("too many requests")]
    Throttled,
    #[error("nobody answers")]
    Unavailable,
    /// Whether it was done is not known.
    #[error("the connection was lost")]
    Lost,
    #[error("no such machine")]
    NotFound,
}

impl Cloud {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().machines.keys().cloned().collect()
    }

    pub(crate) fn destroy(&self, name: &str) {
        self.lock().machines.remove(name);
    }

    /// For as long as the guard lives.
    pub(crate) fn inject(&self, fault: Fault) -> Injection {
        struct Guard(Cloud, Fault);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.lock().faults.remove(&self.1);
            }
        }
        let mut state = self.lock();
        state.faults.insert(fault, 0);
        state.stale = state.machines.iter().map(|(name, machine)| (name.clone(), machine.clone())).collect();
        let cloud = self.clone();
        Injection::new(Guard(self.clone(), fault))
            .counted(move || cloud.lock().faults.get(&fault).copied().unwrap_or_default())
    }

    /// Creating what is there already is well: names are for that.
    fn create(&self, name: &str, worker: &str, dead: bool) -> Result<(), CloudError> {
        let mut state = self.lock();
        state.answers()?;
        state.machines.insert(name.to_owned(), Machine { worker: worker.to_owned(), dead });
        if name.starts_with("machine-") && state.meets(Fault::Vanishes) {
            state.machines.remove(name);
        }
        if state.meets(Fault::ErrorAfterCreate) { Err(CloudError::Lost) } else { Ok(()) }
    }

    fn delete(&self, name: &str) -> Result<(), CloudError> {
        let mut state = self.lock();
        state.answers()?;
        state.machines.remove(name).ok_or(CloudError::NotFound)?;
        if state.meets(Fault::ErrorAfterRemove) { Err(CloudError::Lost) } else { Ok(()) }
    }

    /// Whether it has booted.
    fn has_booted(&self, name: &str) -> Result<bool, CloudError> {
        let mut state = self.lock();
        state.answers()?;
        let slow = state.meets(Fault::SlowStart);
        if state.machines.contains_key(name) { Ok(!slow) } else { Err(CloudError::NotFound) }
    }

    fn is_dead(&self, name: &str) -> bool {
        self.lock().machines.get(name).is_none_or(|machine| machine.dead)
    }

    /// The only thing that lags.
    fn list(&self) -> Result<Vec<(String, String)>, CloudError> {
        let mut state = self.lock();
        state.answers()?;
        let shown: Vec<_> = if state.meets(Fault::LaggingList) {
            state.stale.clone()
        } else {
            state.machines.clone().into_iter().collect()
        };
        Ok(shown.into_iter().map(|(name, machine)| (name, machine.worker)).collect())
    }
}

impl State {
    fn meets(&mut self, fault: Fault) -> bool {
        self.faults.get_mut(&fault).map(|met| *met += 1).is_some()
    }

    fn answers(&mut self) -> Result<(), CloudError> {
        if self.meets(Fault::Throttled) {
            return Err(CloudError::Throttled);
        }
        if self.meets(Fault::Unavailable) { Err(CloudError::Unavailable) } else { Ok(()) }
    }
}

/// What a driver does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    LeaksOnFailedStart,
    IgnoresCancel,
    StopFailsOnGone,
    ReclaimsByWorkersName,
    ReclaimsOnlyOnce,
    TellsSecretInError,
    ShowsSecretInArguments,
    ShowsSecretInPassing,
    ForgetsKey,
    GoesOnAfterReturn,
    NamesByWorker,
    HidesThrottling,
    ChecksNothing,
    FitsEverything,
    BlamesProviderForBuild,
    LiesAboutStop,
    ReclaimsByListing,
    IgnoresRefusedRecord,
    Panics,
    HangsInStart,
    ReclaimsRecordedIdsAlone,
    FailsToRemoveWhatIsGone,
    LeaksWhenCancelledAtOnce,
    LeaksWhenCancelledMidway,
    LeaksWhenVanished,
    LiesWhenThrottled,
    BlamesBuildForProvider,
    SkipsRemovalWhenFast,
    IgnoresHurry,
    SharesOneMachine,
    StartsOnce,
    ChecksBadly,
    StopsByListing,
    ReclaimsNothing,
    HidesKinds,
    SaysNewKinds,
    AsksForKinds,
    IsSlowToSayKinds,
    KnowsKindsAlone,
}

#[derive(Clone)]
pub(crate) struct Driver {
    cloud: Cloud,
    flaw: Option<Flaw>,
    /// For [`Flaw::ReclaimsOnlyOnce`]: something that all drivers of a cloud know.
    reclaimed: Arc<Mutex<Vec<String>>>,
    /// How often this one has started.
    starts: Arc<AtomicU32>,
}

pub(crate) struct Instance {
    name: String,
    image: Option<String>,
    child: Option<Child>,
    checks: AtomicU32,
}

impl Driver {
    pub(crate) fn new(cloud: &Cloud) -> Self {
        Self { cloud: cloud.clone(), flaw: None, reclaimed: Arc::default(), starts: Arc::default() }
    }

    /// Drivers with this flaw.
    pub(crate) fn family(flaw: Flaw) -> impl Fn(&Cloud) -> Driver + Send + Sync + 'static {
        let reclaimed = Arc::default();
        move |cloud| Self {
            cloud: cloud.clone(),
            flaw: Some(flaw),
            reclaimed: Arc::clone(&reclaimed),
            starts: Arc::default(),
        }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// By the key, so that a stop and a reclaim find it whatever the start has heard.
    fn name(&self, key: &str, worker: &str) -> String {
        match self.flaw {
            Some(Flaw::NamesByWorker) => format!("machine-{worker}"),
            Some(Flaw::SharesOneMachine) => format!("machine-{:p}", &raw const *self.starts),
            _ => format!("machine-{key}"),
        }
    }

    /// What is gone is gone, whoever has removed it.
    fn remove(&self, name: &str) -> Result<(), CloudError> {
        let mut result = self.cloud.delete(name);
        if matches!(result, Err(CloudError::Lost)) {
            result = self.cloud.delete(name);
        }
        match result {
            Err(CloudError::NotFound) if !self.has(Flaw::FailsToRemoveWhatIsGone) => Ok(()),
            other => other,
        }
    }

    fn leak(&self, start: &StartRequest<'_>) {
        _ = self.cloud.create(&format!("volume-{}", start.key()), start.worker(), false);
    }

    fn boot(&self, name: &str, start: &StartRequest<'_>) -> Result<(), StartError> {
        let has_booted = || {
            self.cloud.has_booted(name).map_err(|error| {
                if matches!(error, CloudError::NotFound) && self.has(Flaw::LeaksWhenVanished) {
                    self.leak(start);
                }
                self.failure(error)
            })
        };
        while !has_booted()? {
            if self.has(Flaw::IgnoresCancel) {
                std::thread::sleep(Duration::from_millis(5));
            } else {
                let cancelled = start.sleep(Duration::from_millis(5));
                if cancelled.is_err() && self.has(Flaw::GoesOnAfterReturn) {
                    let (cloud, name) = (self.cloud.clone(), format!("volume-{}", start.key()));
                    std::thread::spawn(move || {
                        std::thread::sleep(Duration::from_secs(1));
                        cloud.create(&name, "late", false)
                    });
                }
                cancelled?;
            }
        }
        Ok(())
    }

    fn failure(&self, error: CloudError) -> StartError {
        match error {
            CloudError::Throttled if !self.has(Flaw::HidesThrottling) => {
                StartError::failed(FailureCause::Throttled { retry_after: None }, error)
            }
            CloudError::Unavailable if self.has(Flaw::BlamesBuildForProvider) => StartError::cannot(error),
            other => StartError::infrastructure(other),
        }
    }
}

impl LatentWorker for Driver {
    type Instance = Instance;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Instance>, StartError> {
        let properties = start.properties();
        let image = properties.get("image").map(str::to_owned);
        if self.has(Flaw::Panics) {
            panic!("a flaw");
        }
        if self.has(Flaw::HangsInStart) {
            loop {
                std::thread::park();
            }
        }
        if image.as_deref() == Some("none") {
            if self.has(Flaw::BlamesProviderForBuild) {
                return Err(StartError::infrastructure("no such image"));
            }
            return Err(StartError::cannot("no such image"));
        }
        let number = self.starts.fetch_add(1, Ordering::Relaxed);
        if self.has(Flaw::StartsOnce) && number > 0 {
            return Err(StartError::infrastructure("there is one already"));
        }
        // Not in the check of the shutdown, whose workers have other names: when a start is cancelled there is luck.
        let cancelled = || start.cancelled() && start.worker() == "conformance";
        let cancelled_at_once = cancelled();
        if self.has(Flaw::LeaksWhenCancelledAtOnce) && cancelled_at_once {
            self.leak(start);
        }
        let name = if self.has(Flaw::ForgetsKey) {
            format!("machine-{}", fastrand::u64(..))
        } else {
            self.name(start.key(), start.worker())
        };
        if self.has(Flaw::ForgetsKey) {
            start.record(&name)?;
        }
        let dead = image.as_deref() == Some("dies");
        self.cloud.create(&name, start.worker(), dead).map_err(|error| self.failure(error))?;
        if self.has(Flaw::IgnoresRefusedRecord) {
            _ = start.record(&name);
        } else {
            // What was made is removed by the stop, by the key.
            let recorded = start.record(&name);
            if recorded.is_err() && self.has(Flaw::ForgetsKey) {
                _ = self.remove(&name);
            }
            recorded?;
        }
        if self.has(Flaw::LeaksWhenCancelledMidway) && cancelled() && !cancelled_at_once {
            self.leak(start);
        }
        let booted = self.boot(&name, start);
        if booted.is_err() && self.has(Flaw::ForgetsKey) {
            _ = self.remove(&name);
        }
        booted?;
        if image.as_deref() == Some("fails") {
            if self.has(Flaw::ForgetsKey) {
                _ = self.remove(&name);
            }
            if self.has(Flaw::LeaksOnFailedStart) {
                self.cloud.create(&format!("volume-{}", start.key()), start.worker(), false)?;
            }
            if self.has(Flaw::TellsSecretInError) {
                let secret = start.secret().expose();
                return Err(StartError::infrastructure(format!("agent --secret {secret}: exit code 1")));
            }
            return Err(StartError::infrastructure("the disk is full"));
        }
        let child = self.has(Flaw::ShowsSecretInArguments).then(|| {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "read line", start.secret().expose()]).stdin(Stdio::piped());
            shell.spawn().unwrap()
        });
        if self.has(Flaw::ShowsSecretInPassing) {
            let mut tool = Command::new("/bin/sh");
            assert!(tool.args(["-c", "sleep 0.5; true", start.secret().expose()]).status().unwrap().success());
        }
        start.progress("booted");
        Ok(Started::new(Instance { name: name.clone(), image, child, checks: AtomicU32::new(0) }).detail(name))
    }

    fn stop_instance(&self, stop: StopRequest<Instance>) -> Result<(), StopError> {
        let name = match stop.instance() {
            Some(instance) => instance.name.clone(),
            None => self.name(stop.key(), stop.worker()),
        };
        if stop.instance().is_some() && self.has(Flaw::StopFailsOnGone) {
            return self.cloud.delete(&name).or_else(|error| match error {
                CloudError::Lost => Ok(()),
                other => Err(StopError::new(other)),
            });
        }
        if self.has(Flaw::StopsByListing)
            && stop.instance().is_none()
            && !self.cloud.list()?.iter().any(|(listed, _)| *listed == name)
        {
            return Ok(());
        }
        if stop.instance().is_some_and(|instance| instance.image.as_deref() == Some("stubborn")) {
            if self.has(Flaw::IgnoresHurry) {
                _ = crossbeam_channel::never::<()>().recv_timeout(Duration::from_secs(1));
            } else {
                _ = stop.sleep(Duration::from_secs(3600));
            }
        }
        if self.has(Flaw::SkipsRemovalWhenFast) && stop.fast() {
            return Ok(());
        }
        if self.has(Flaw::LiesWhenThrottled) {
            return match self.remove(&name) {
                Err(CloudError::Throttled) => Ok(()),
                other => other.map_err(StopError::new),
            };
        }
        if self.has(Flaw::LiesAboutStop) {
            return match self.remove(&name) {
                Err(CloudError::Unavailable) => Ok(()),
                other => other.map_err(StopError::new),
            };
        }
        if let Some(mut child) = stop.into_instance().and_then(|instance| instance.child) {
            _ = child.kill();
            child.wait()?;
        }
        Ok(self.remove(&name)?)
    }

    fn check_instance(&self, instance: &Instance) -> Health {
        if instance.checks.fetch_add(1, Ordering::Relaxed) > 0 && self.has(Flaw::ChecksBadly) {
            return Health::bad("no agent has come yet");
        }
        if !self.has(Flaw::ChecksNothing) && self.cloud.is_dead(&instance.name) {
            return Health::bad("the machine is down");
        }
        Health::Good
    }

    fn builds_may_be_incompatible(&self) -> bool {
        true
    }

    fn says_kinds(&self) -> bool {
        !self.has(Flaw::HidesKinds) && !self.has(Flaw::FitsEverything)
    }

    fn kind(&self, properties: &Properties) -> Result<Kind, BoxError> {
        if self.has(Flaw::FitsEverything) {
            return Ok(Kind::by_properties());
        }
        if self.has(Flaw::AsksForKinds) {
            self.cloud.list()?;
        }
        if self.has(Flaw::IsSlowToSayKinds) {
            std::thread::sleep(Duration::from_millis(150));
        }
        let unwanted = if self.has(Flaw::SaysNewKinds) { fastrand::u64(..) } else { 0 };
        match properties.get("image") {
            Some("none") => Err("no such image".into()),
            image => Ok(Kind::new(format!("{image:?} {unwanted}"))),
        }
    }

    fn is_compatible_with_build(&self, instance: &Instance, properties: &Properties) -> Result<bool, BoxError> {
        let fits_everything = self.has(Flaw::FitsEverything) || self.has(Flaw::KnowsKindsAlone);
        Ok(fits_everything || instance.image.as_deref() == properties.get("image"))
    }

    fn reclaim(&self, leftover: &Leftover) -> Result<Reclaimed, StopError> {
        if self.has(Flaw::ReclaimsOnlyOnce) {
            let mut reclaimed = self.reclaimed.lock().unwrap();
            if reclaimed.iter().any(|key| key == leftover.key()) {
                return Err(StopError::new("no such machine"));
            }
            reclaimed.push(leftover.key().to_owned());
        }
        if self.has(Flaw::ReclaimsByWorkersName) {
            for (name, worker) in self.cloud.list()? {
                if worker.starts_with(leftover.worker()) {
                    self.remove(&name)?;
                }
            }
        }
        if self.has(Flaw::ReclaimsByListing) {
            let name = self.name(leftover.key(), leftover.worker());
            if !self.cloud.list()?.iter().any(|(listed, _)| *listed == name) {
                return Ok(Reclaimed::Gone);
            }
        }
        if self.has(Flaw::ReclaimsNothing) {
            return Ok(Reclaimed::Gone);
        }
        for id in leftover.ids() {
            self.remove(id)?;
        }
        if !self.has(Flaw::ReclaimsRecordedIdsAlone) {
            self.remove(&self.name(leftover.key(), leftover.worker()))?;
        }
        Ok(Reclaimed::Gone)
    }
}

/// With all means that there are.
pub(crate) fn subject(driver: impl Fn(&Cloud) -> Driver + Send + Sync + 'static) -> Subject<Driver> {
    let cloud = Cloud::default();
    let of = |image: &str| Build::new(image).with_property("image", image);
    let list = cloud.clone();
    let destroy = cloud.clone();
    let make = cloud.clone();
    let mut subject = Subject::new("machines in memory", move || driver(&make), move || list.names())
        .destroy(move |name| destroy.destroy(name))
        .failing(of("fails"))
        .impossible(of("none"))
        .dying(of("dies"))
        .incompatible(of("other"))
        .stubborn(of("stubborn"))
        .debug_instance(|instance| instance.name.clone());
    let faults = [
        Fault::ErrorAfterCreate,
        Fault::ErrorAfterRemove,
        Fault::SlowStart,
        Fault::LaggingList,
        Fault::Throttled,
        Fault::Unavailable,
        Fault::Vanishes,
    ];
    for fault in faults {
        let cloud = cloud.clone();
        subject = subject.fault(fault, move || cloud.inject(fault));
    }
    subject
}

#[test]
fn d6_a_driver_that_does_all_it_should_passes_with_every_fault() {
    let report = subject(Driver::new).run();
    println!("{report}");
    report.expect_all();
}
