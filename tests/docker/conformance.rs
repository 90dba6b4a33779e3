//! D6: the conformance kit, with every fault that a proxy in front of a real engine can make.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use latent_worker::testing::conformance::{Fault, Injection, Report, Subject};
use latent_worker::testing::{FaultyHttp, HttpFault, HttpRule, InjectedFault};
use latent_worker::{Build, DockerLatentWorker, PullPolicy, Setting};

use crate::support::engine::{Engine, Listed};
use crate::support::images::Image;
use crate::support::{LABEL, label, on_every_engine};

on_every_engine![d6_the_driver_of_containers_passes_the_kit];

fn d6_the_driver_of_containers_passes_the_kit(engine: &Engine) {
    let report = examine(engine);
    println!("{report}");
    // An engine lists what it has, and no proxy makes it forget that.
    report.expect_all_but(&["d6_lagging_list", "d6_lagging_reclaim"]);
}

fn examine(engine: &Engine) -> Report {
    // The kit attaches its own agents.
    let image = Image::shell(engine, "exec sleep 1000000");
    let other = Image::shell(engine, "exec sleep 1000000");
    let dying = Image::shell(engine, "echo this was it >&2; exit 3");
    let of = |image: &str| Build::new("conformance").with_property("image", image);

    let proxy = Arc::new(FaultyHttp::to_unix(engine.host().strip_prefix("unix://").expect("a Unix socket")).unwrap());
    let images = Setting::<String>::template(&format!("{{image:-{}}}", image.reference())).unwrap();
    let networks = Setting::<String>::template("{network:-none}").unwrap();
    let mark = label();
    let make = {
        let (address, mark) = (format!("tcp://{}", proxy.address()), mark.clone());
        move || {
            let driver = DockerLatentWorker::builder(images.clone()).engine(address.parse().unwrap());
            let driver = driver.label(LABEL, mark.as_str()).pull(PullPolicy::Never).network(networks.clone());
            driver.master_address("127.0.0.1:9").stop_grace(Duration::from_secs(1)).build().unwrap()
        }
    };
    let mine = {
        let (engine, mark) = (engine.clone(), format!("{LABEL}={mark}"));
        move || engine.labelled(&mark)
    };
    let list = {
        let mine = mine.clone();
        move || mine().into_iter().map(|container| container.name).collect()
    };
    let inject = |rules: &'static [fn() -> HttpRule]| {
        let proxy = proxy.clone();
        move || rules.iter().map(|rule| proxy.inject(rule())).collect::<Vec<_>>()
    };
    let remover = engine.clone();
    let subject = Subject::new("docker", make, list)
        .destroy(move |name| _ = remover.try_remove(name))
        // Docker creates such a container, and does not start it.
        .failing(Build::new("conformance").with_property("network", "lw-test-no-such-network"))
        .impossible(of("NOT A NAME"))
        .dying(of(dying.reference()))
        .incompatible(of(other.reference()))
        .debug_driver(|driver| format!("{driver:?}"))
        .debug_instance(|instance| format!("{instance:?}"))
        .fault(Fault::ErrorAfterCreate, inject(&[|| creating(HttpFault::CutAfter)]))
        .fault(Fault::ErrorAfterRemove, inject(&[|| removing(HttpFault::StatusAfter(500))]))
        .fault(Fault::SlowStart, inject(&[|| creating(HttpFault::DelayAnswer(Duration::from_secs(60)))]))
        .fault(
            Fault::Throttled,
            inject(&[|| HttpRule::new(HttpFault::TooManyRequests { retry_after: Duration::from_secs(7) })]),
        )
        .fault(Fault::Unavailable, inject(&[|| HttpRule::new(HttpFault::CutBefore)]))
        .fault(Fault::Vanishes, {
            let (engine, proxy) = (engine.clone(), proxy.clone());
            move || {
                // Long enough for the removal to come first.
                let starting = HttpRule::new(HttpFault::DelayAnswer(Duration::from_secs(2))).method("POST");
                vanishing(&engine, mine.clone(), proxy.inject(starting.path_contains("/start")))
            }
        });
    subject.cancel_within(Duration::from_secs(5)).run()
}

fn creating(fault: HttpFault) -> HttpRule {
    HttpRule::new(fault).method("POST").path_contains("/containers/create")
}

fn removing(fault: HttpFault) -> HttpRule {
    HttpRule::new(fault).method("DELETE").path_contains("/containers/").times(1)
}

/// Somebody who removes what is created, as soon as it is there; and with it what keeps the start from returning first.
fn vanishing(engine: &Engine, mine: impl Fn() -> Vec<Listed> + Send + 'static, slow: InjectedFault) -> Injection {
    let (engine, end, removed) = (engine.clone(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let thread = {
        let (end, removed) = (end.clone(), removed.clone());
        thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                for container in mine() {
                    removed.fetch_add(u64::from(engine.try_remove(&container.id)), Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(10));
            }
        })
    };
    Injection::new((slow, Remover { end, thread: Some(thread) })).counted(move || removed.load(Ordering::Relaxed))
}

struct Remover {
    end: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Remover {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let _ = self.thread.take().expect("dropped once").join();
    }
}
