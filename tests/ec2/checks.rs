//! What is looked at besides a machine itself: plans of the provider, and requests for spot machines. An end that is seen coming
//! while the agent is attached: the machine takes no new build, and is stopped when those that it has are done.

use std::time::Duration;

use latent_worker::{Build, BuildResult, EventKind, Offer, StopCause};

use crate::support::front::{Asked, Fault};
use crate::support::{Scene, TYPE, lease};

fn is_retired(scene: &Scene) {
    let cause = scene.await_event(|kind| match kind {
        EventKind::StopCalled { cause, .. } => Some(*cause),
        _ => None,
    });
    assert_eq!(cause, StopCause::Retired);
}

fn told(scene: &Scene) -> String {
    scene.await_event(|kind| match kind {
        EventKind::CheckReturned { result: Err(reason) } => Some(reason.to_string()),
        _ => None,
    })
}

// moto does not tell of the requests that launches make.
const NAMED: &[(&str, &str)] = &[(
    "<instanceLifecycle>spot</instanceLifecycle>",
    "<instanceLifecycle>spot</instanceLifecycle><spotInstanceRequestId>sir-1</spotInstanceRequestId>",
)];

fn two_checks_are_well(scene: &Scene) {
    for _ in 0..2 {
        let result = scene.await_event(|kind| match kind {
            EventKind::CheckReturned { result } => Some(result.clone()),
            _ => None,
        });
        assert_eq!(result, Ok(()));
    }
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn w10_what_the_account_may_not_look_at_says_nothing_of_a_machine() {
    let scene = Scene::new();
    let _named = scene.front.inject(Fault::Replace(NAMED), |asked| asked.is("DescribeInstances"));
    let denied = Fault::Refuse(403, "UnauthorizedOperation");
    let requests = scene.front.inject(denied.clone(), |asked| asked.is("DescribeSpotInstanceRequests"));
    let statuses = scene.front.inject(denied, |asked| asked.is("DescribeInstanceStatus"));
    let driver = scene.bare_driver().image(latent_worker::Ami::id(&*scene.image)).offer(Offer::new(TYPE).spot());
    let worker = scene.worker("w", driver.user_data("").build().unwrap());
    let request = worker.substantiate(&Build::new("b"));
    two_checks_are_well(&scene);
    assert!(requests.met() > 0 && statuses.met() > 0, "they were asked for");
    // What it may look at is seen all the same.
    scene.cloud.terminate(&scene.machine().id);
    let reason = told(&scene);
    assert!(reason.contains("is terminated"), "{reason}");
    drop((request, requests, statuses));
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn w10_a_spot_machine_that_is_going_to_be_interrupted_finishes_its_build_and_takes_no_other() {
    let scene = Scene::new();
    let named = Fault::Replace(NAMED);
    let _named = scene.front.inject(named, |asked| asked.is("DescribeInstances"));
    let status = |code: &str| {
        format!(
            "<DescribeSpotInstanceRequestsResponse><spotInstanceRequestSet><item><spotInstanceRequestId>sir-1\
             </spotInstanceRequestId><status><code>{code}</code><message>words</message></status></item>\
             </spotInstanceRequestSet></DescribeSpotInstanceRequestsResponse>"
        )
    };
    let asks = |asked: &Asked| asked.is("DescribeSpotInstanceRequests");
    let well = scene.front.inject(Fault::Say(status("fulfilled")), asks);
    let driver = scene.bare_driver().image(latent_worker::Ami::id(&*scene.image)).offer(Offer::new(TYPE).spot());
    let worker = scene.worker("w", driver.attached_check_interval(Duration::from_secs(1)).build().unwrap());
    let held = lease(&worker, &Build::new("b"));
    two_checks_are_well(&scene);
    assert!(well.met() > 0, "its request is looked at");
    let marked = scene.front.inject(Fault::Say(status("marked-for-termination")), asks);
    drop(well);
    let reason = told(&scene);
    assert!(reason.contains("marked-for-termination"), "{reason}");
    drop(marked);
    assert!(held.end().is_none(), "the build goes on");
    held.finish(BuildResult::Succeeded);
    is_retired(&scene);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn w10_a_machine_whose_hardware_is_retired_is_replaced_when_it_is_idle() {
    let scene = Scene::new();
    const PLANNED: &[(&str, &str)] = &[(
        "<instanceId>",
        "<eventsSet><item><code>instance-retirement</code><description>The hardware is old</description><notBefore>\
         2027-01-01T00:00:00Z</notBefore></item></eventsSet><instanceId>",
    )];
    let _planned = scene.front.inject(Fault::Replace(PLANNED), |asked| asked.is("DescribeInstanceStatus"));
    let worker = scene.worker("w", scene.driver().attached_check_interval(Duration::from_secs(1)).build().unwrap());
    drop(lease(&worker, &Build::new("b")));
    let reason = told(&scene);
    assert!(reason.contains("instance-retirement from 2027-01-01T00:00:00Z on: The hardware is old"), "{reason}");
    is_retired(&scene);
    scene.finish();
}
