//! D6: the conformance kit, with every fault that what stands before moto can make.

use std::sync::Arc;
use std::time::Duration;

use latent_worker::testing::conformance::{Fault, Injection, Report, Subject};
use latent_worker::testing::{FaultyHttp, HttpFault, HttpRule};
use latent_worker::{Ami, Build, Ec2LatentWorker, Setting};

use crate::support::cloud::Cloud;
use crate::support::front::{self, Front};
use crate::support::{TYPE, credentials, quick};

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn d6_the_driver_of_machines_passes_the_kit() {
    let report = examine();
    println!("{report}");
    report.expect_all_but(&[]);
}

fn examine() -> Report {
    let cloud = Cloud::new();
    let image = cloud.image("runner");
    let front = Arc::new(Front::before(&cloud));
    let proxy = Arc::new(FaultyHttp::to(front.address()).unwrap());
    let make = {
        let (url, region, image) = (proxy.url(), cloud.region, image.clone());
        move || {
            let types = Setting::template(&format!("{{type:-{TYPE}}}")).unwrap();
            let volume = Setting::<String>::template("{volume:-}").unwrap();
            let builder = quick(Ec2LatentWorker::builder()).region(region).endpoint(&*url).credentials(credentials());
            let builder = builder.image(Ami::id(&*image)).offer(types).volume("/dev/sdf", volume);
            builder.user_data("SECRET=@LATENT_WORKER_SECRET@").build().unwrap()
        }
    };
    let list = {
        let cloud = cloud.clone();
        move || cloud.machines().into_iter().map(|machine| machine.id).collect()
    };
    let on_front = |fault: front::Fault, action: &'static str, times: u64| {
        let front = front.clone();
        move || front.inject_times(times, fault.clone(), move |asked| asked.is(action))
    };
    let destroyer = cloud.clone();
    let subject = Subject::new("ec2", make, list)
        .destroy(move |id| destroyer.terminate(id))
        .failing(Build::new("conformance").with_property("volume", "vol-00000000"))
        .impossible(Build::new("conformance").with_property("type", "t3.gigantic"))
        .incompatible(Build::new("conformance").with_property("type", "t3.small"))
        .debug_driver(|driver| format!("{driver:?}"))
        .debug_instance(|instance| format!("{instance:?}"))
        .fault(Fault::ErrorAfterCreate, on_front(front::Fault::CutAfter, "RunInstances", u64::MAX))
        .fault(Fault::ErrorAfterRemove, on_front(front::Fault::FailAfter, "TerminateInstances", 1))
        .fault(Fault::SlowStart, on_front(front::Fault::Delay(Duration::from_secs(60)), "RunInstances", u64::MAX))
        .fault(Fault::LaggingList, {
            let front = front.clone();
            move || front.lag(Duration::from_secs(1))
        })
        .fault(Fault::Throttled, {
            let proxy = proxy.clone();
            move || proxy.inject(HttpRule::new(HttpFault::TooManyRequests { retry_after: Duration::from_secs(1) }))
        })
        .fault(Fault::Unavailable, {
            let proxy = proxy.clone();
            move || proxy.inject(HttpRule::new(HttpFault::CutBefore))
        })
        .fault(Fault::Vanishes, {
            let (front, cloud) = (front.clone(), cloud.clone());
            move || -> Injection {
                // Pending, until it has been seen to go.
                front.pending(Duration::from_secs(1));
                let rule = front.inject(front::Fault::Delay(Duration::ZERO), {
                    let cloud = cloud.clone();
                    move |asked| {
                        let looks = asked.is("DescribeInstances");
                        if looks {
                            cloud.machines().iter().for_each(|machine| cloud.terminate(&machine.id));
                        }
                        looks
                    }
                });
                rule.into()
            }
        });
    subject.cancel_within(Duration::from_secs(5)).run()
}
