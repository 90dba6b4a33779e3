//! What goes wrong at the provider, or on the way to it: what becomes of the start, and that nothing is left.

use std::time::{Duration, Instant};

use latent_worker::{
    Ami, Build, EventKind, FailureCause, LeftoverStep, Offer, Setting, SubstantiateError, Worker, WorkerState,
};

use crate::support::cloud::between;
use crate::support::front::{Asked, Fault};
use crate::support::{PATIENCE, Scene, TYPE, eventually, failed, failure, lease, started, stop};

fn launches(asked: &Asked) -> bool {
    asked.is("RunInstances")
}

fn is_down(worker: &Worker) {
    assert!(eventually(|| worker.status().state == WorkerState::NotSubstantiated), "{}", worker.status());
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn w5_a_start_waits_while_its_machine_is_pending_and_returns_soon_when_it_is_cancelled() {
    let scene = Scene::new();
    scene.front.pending(Duration::from_secs(2));
    let worker = scene.worker("w", scene.driver().user_data("").build().unwrap());
    let begun = Instant::now();
    let request = worker.substantiate(&Build::new("b"));
    started(&worker);
    assert!(begun.elapsed() > Duration::from_secs(2));
    let looks = scene.front.count("DescribeInstances");
    assert!((5..=25).contains(&looks), "{looks} looks, one in 100 ms");
    drop(request);
    stop(&worker);

    scene.front.pending(Duration::from_secs(600));
    let request = worker.substantiate(&Build::new("c"));
    assert!(eventually(|| scene.cloud.machines().len() == 1));
    request.cancel();
    let cancelled = Instant::now();
    is_down(&worker);
    assert!(cancelled.elapsed() < Duration::from_secs(3), "{:?}", cancelled.elapsed());
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn what_is_out_of_capacity_is_replaced_by_the_next_offer_and_asked_for_last_after_that() {
    let scene = Scene::new();
    let region = scene.cloud.region;
    let [a, b] = ["a", "b"].map(|zone| format!("{region}{zone}"));
    let driver = scene
        .bare_driver()
        .image(Ami::id(&*scene.image))
        .offer(Offer::new("t3.small").in_zone(&*a).spot())
        .offer(Offer::new("t3.small").in_zone(&*b))
        .offer(Offer::new(TYPE))
        .build()
        .unwrap();
    let out = |kind: &'static str, zone: String| {
        move |asked: &Asked| {
            launches(asked)
                && asked.parameter("InstanceType") == kind
                && asked.parameter("Placement.AvailabilityZone") == zone
        }
    };
    let short = Fault::Refuse(500, "InsufficientInstanceCapacity");
    let spot = scene.front.inject(short.clone(), out("t3.small", a.clone()));
    let worker = scene.worker("w", driver.clone());
    drop(lease(&worker, &Build::new("b")));
    let machine = scene.machine();
    assert_eq!(between(&machine.xml, "availabilityZone"), Some(&*b));
    assert_eq!((spot.met(), scene.front.count("RunInstances")), (1, 2), "it was asked for once");
    let told = scene.await_event(|kind| match kind {
        EventKind::Progress { text } if text.contains("not to be had") => Some(text.to_string()),
        _ => None,
    });
    assert!(told.starts_with(&format!("t3.small@{a}:spot is not to be had: ")), "{told}");

    // Another worker of the same driver does not ask for it.
    let second = scene.worker("second", driver);
    drop(lease(&second, &Build::new("c")));
    assert_eq!((spot.met(), scene.front.count("RunInstances")), (1, 3));
    stop(&worker);
    stop(&second);

    let other = scene.front.inject(short.clone(), out("t3.small", b));
    let last = scene.front.inject(short, out(TYPE, String::new()));
    let (cause, reason) = failed(&worker, &Build::new("d"));
    assert_eq!(cause, FailureCause::Capacity);
    assert!(reason.contains("no offer is to be had") && reason.contains("offer other types"), "{reason}");
    assert_eq!((spot.met(), other.met(), last.met()), (2, 1, 1), "at last also what was out before");
    is_down(&worker);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn a_launch_that_was_taken_and_comes_to_nothing_is_replaced_by_the_next_offer_too() {
    const ENDED: &[(&str, &str)] = &[
        ("<code>16</code><name>running</name>", "<code>48</code><name>terminated</name>"),
        (
            "<stateReason><code/><message/></stateReason>",
            "<stateReason><code>Server.InsufficientInstanceCapacity</code><message>none left</message></stateReason>",
        ),
    ];
    let scene = Scene::new();
    let short = scene.front.inject_times(1, Fault::Replace(ENDED), |asked| asked.is("DescribeInstances"));
    let driver = scene.bare_driver().image(Ami::id(&*scene.image)).offer(Offer::new("t3.small"));
    let driver = driver.offer(Offer::new(TYPE)).user_data("").build().unwrap();
    let worker = scene.worker("w", driver);
    let request = worker.substantiate(&Build::new("b"));
    started(&worker);
    assert_eq!(short.met(), 1);
    let tokens: Vec<_> = scene
        .front
        .asked()
        .iter()
        .filter(|asked| launches(asked))
        .map(|a| a.parameter("ClientToken").to_owned())
        .collect();
    assert!(tokens.len() == 2 && tokens[0] != tokens[1], "{tokens:?}");
    assert!(worker.status().details.contains(&TYPE.to_owned()), "{}", worker.status());
    drop(request);
    stop(&worker);
    // Also the one that moto has not ended.
    assert_eq!(scene.cloud.machines(), []);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn d6_a_burst_of_refusals_is_waited_for_and_one_that_does_not_end_is_told() {
    let scene = Scene::new();
    let throttled = Fault::Refuse(503, "RequestLimitExceeded");
    let burst = scene.front.inject_times(3, throttled.clone(), |_| true);
    let worker = scene.worker("w", scene.driver().build().unwrap());
    drop(lease(&worker, &Build::new("b")));
    assert_eq!(burst.met(), 3);
    stop(&worker);
    drop(burst);

    let for_ever = scene.front.inject(throttled, launches);
    let (cause, reason) = failed(&worker, &Build::new("c"));
    assert!(matches!(cause, FailureCause::Throttled { .. }), "{cause:?} {reason}");
    assert!(for_ever.met() > 1);
    is_down(&worker);
    drop(for_ever);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn d4_a_launch_whose_answer_is_lost_is_asked_for_again_and_makes_one_machine() {
    let scene = Scene::new();
    let worker = scene.worker("w", scene.driver().build().unwrap());
    for fault in [Fault::CutAfter, Fault::FailAfter, Fault::CutBefore] {
        let before = scene.cloud.all_machines().len();
        let lost = scene.front.inject_times(2, fault.clone(), launches);
        drop(lease(&worker, &Build::new("b")));
        assert_eq!(lost.met(), 2, "{fault:?}");
        assert_eq!(scene.cloud.all_machines().len(), before + 1, "{fault:?}");
        let asked = scene.front.asked().into_iter().filter(launches);
        let tokens: Vec<_> = asked.map(|asked| asked.parameter("ClientToken").to_owned()).collect();
        assert!(tokens[tokens.len() - 3..].windows(2).all(|two| two[0] == two[1]), "{tokens:?}");
        stop(&worker);
    }
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn d2_a_launch_that_nobody_has_heard_of_is_found_by_the_stop() {
    let scene = Scene::new();
    let lost = scene.front.inject(Fault::CutAfter, launches);
    let worker = scene.worker("w", scene.driver().user_data("").build().unwrap());
    let (cause, reason) = failed(&worker, &Build::new("b"));
    assert_eq!(cause, FailureCause::Infrastructure, "{reason}");
    is_down(&worker);
    assert!(lost.met() > 1);
    assert_eq!(scene.cloud.all_machines().len(), 1, "it was made");
    assert_eq!((scene.cloud.machines(), scene.master.leftovers()), (vec![], vec![]));
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn d2_a_launch_that_was_cancelled_on_its_way_is_asked_for_again_by_the_stop_and_ended() {
    let scene = Scene::new();
    let slow = scene.front.inject(Fault::Delay(PATIENCE), launches);
    let worker = scene.worker("w", scene.driver().user_data("").build().unwrap());
    let request = worker.substantiate(&Build::new("b"));
    assert!(eventually(|| slow.met() == 1));
    request.cancel();
    // The stop has asked again. Both launches are carried out from now on.
    assert!(eventually(|| slow.met() == 2), "{}", worker.status());
    drop(slow);
    is_down(&worker);
    assert_eq!((scene.cloud.all_machines().len(), scene.cloud.machines()), (1, vec![]));
    assert_eq!(scene.master.leftovers(), []);
    let asked = scene.front.asked().into_iter().filter(launches);
    let tokens: Vec<_> = asked.map(|asked| asked.parameter("ClientToken").to_owned()).collect();
    assert!(tokens.len() == 2 && tokens[0] == tokens[1], "{tokens:?}");
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn j5_a_launch_that_is_in_no_list_yet_is_reclaimed_when_it_shows() {
    let scene = Scene::new();
    let lost = scene.front.inject(Fault::CutAfter, launches);
    // Longer than the stop looks for it, and shorter than the driver believes that lists may lag.
    let lag = scene.front.lag(Duration::from_secs(12));
    let driver = scene.driver().user_data("").call_limit(Duration::from_secs(2));
    let driver = driver.listing_lag(Duration::from_secs(60)).build().unwrap();
    let worker = scene.worker("w", driver);
    failed(&worker, &Build::new("b"));
    let why = scene.await_event(|kind| match kind {
        EventKind::LeftBehind { reason } => Some(reason.to_string()),
        _ => None,
    });
    assert!(why.contains("was not answered"), "{why}");
    assert_eq!(scene.cloud.machines().len(), 1);
    assert!(eventually(|| scene.master.leftovers().is_empty()), "{:?}", scene.master.leftovers());
    assert_eq!(scene.cloud.machines(), []);
    drop((lag, lost));
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn j5_a_launch_that_never_came_to_anything_is_given_up_after_the_time_that_lists_may_lag() {
    let scene = Scene::new();
    let lost = scene.front.inject(Fault::CutBefore, launches);
    let worker = scene.worker("w", scene.driver().user_data("").listing_lag(Duration::from_secs(12)).build().unwrap());
    failed(&worker, &Build::new("b"));
    assert!(eventually(|| !scene.master.leftovers().is_empty()));
    assert!(eventually(|| scene.master.leftovers().iter().all(|left| left.next != LeftoverStep::Unsupported)));
    assert!(eventually(|| scene.master.leftovers().is_empty()), "{:?}", scene.master.leftovers());
    assert_eq!(scene.cloud.all_machines(), []);
    drop(lost);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn d2_a_request_for_a_spot_machine_that_may_still_be_met_is_cancelled() {
    let scene = Scene::new();
    let lost = scene.front.inject(Fault::CutBefore, launches);
    let open = "<DescribeSpotInstanceRequestsResponse><spotInstanceRequestSet><item><spotInstanceRequestId>sir-9\
                </spotInstanceRequestId><status><code>pending-evaluation</code></status></item></spotInstanceRequestSet>\
                </DescribeSpotInstanceRequestsResponse>";
    let _open = scene.front.inject(Fault::Say(open.into()), |asked| asked.is("DescribeSpotInstanceRequests"));
    let _taken = scene.front.inject(Fault::Say("<CancelSpotInstanceRequestsResponse/>".into()), |asked| {
        asked.is("CancelSpotInstanceRequests")
    });
    let driver = scene.bare_driver().image(Ami::id(&*scene.image)).offer(Offer::new(TYPE).spot());
    let driver = driver.user_data("").call_limit(Duration::from_secs(2)).build().unwrap();
    let worker = scene.worker("w", driver);
    failed(&worker, &Build::new("b"));
    is_down(&worker);
    assert!(eventually(|| scene.master.leftovers().is_empty()));
    let asked = scene.front.asked();
    let cancelled: Vec<_> = asked.iter().filter(|asked| asked.is("CancelSpotInstanceRequests")).collect();
    assert!(!cancelled.is_empty());
    assert!(cancelled.iter().all(|asked| asked.parameter("SpotInstanceRequestId.1") == "sir-9"));
    let looked = asked.iter().find(|asked| asked.is("DescribeSpotInstanceRequests")).unwrap();
    let attempt = looked.parameters.values().any(|name| name == "tag:latent-worker.attempt");
    assert!(attempt, "by the tags of the attempt alone: {looked:?}");
    drop(lost);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn d2_a_launch_template_may_have_asked_for_a_spot_machine_and_need_not() {
    let scene = Scene::new();
    let template = [
        ("LaunchTemplateName", "farm"),
        ("LaunchTemplateData.ImageId", &*scene.image),
        ("LaunchTemplateData.InstanceType", TYPE),
    ];
    scene.cloud.ec2("CreateLaunchTemplate", &template);
    let lost = scene.front.inject(Fault::CutBefore, launches);
    let denied = scene
        .front
        .inject(Fault::Refuse(403, "UnauthorizedOperation"), |asked| asked.is("DescribeSpotInstanceRequests"));
    let driver = scene.bare_driver().launch_template("farm").user_data("").call_limit(Duration::from_secs(2));
    let worker = scene.worker("w", driver.build().unwrap());
    failed(&worker, &Build::new("b"));
    is_down(&worker);
    // Neither the stop nor the reclaim that follows it fails for want of a permission that most do not need.
    assert!(eventually(|| scene.master.leftovers().is_empty()), "{:?}", scene.master.leftovers());
    assert!(denied.met() > 0, "it was asked for");
    drop((lost, denied));
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn lists_that_lag_are_waited_for() {
    let scene = Scene::new();
    let lag = scene.front.lag(Duration::from_secs(2));
    let worker = scene.worker("w", scene.driver().build().unwrap());
    drop(lease(&worker, &Build::new("b")));
    stop(&worker);
    assert_eq!(scene.cloud.machines(), []);
    drop(lag);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn b3_what_does_not_exist_is_the_builds_fault_only_when_the_build_has_asked_for_it() {
    let scene = Scene::new();
    let missing = "ami-00000000000000000";
    let constant = scene.bare_driver().image(Ami::id(missing)).offer(Offer::new(TYPE)).build().unwrap();
    for name in ["constant", "another"] {
        let worker = scene.worker(name, constant.clone());
        let (cause, reason) = failed(&worker, &Build::new("a"));
        assert_eq!(cause, FailureCause::Infrastructure);
        assert!(reason.contains("RunInstances") && reason.contains("InvalidAMIID.NotFound"), "{reason}");
    }
    assert_eq!(scene.front.count("DescribeImages"), 1, "that it has no disks which are known is known then");

    let image = Setting::template("{image}").unwrap();
    let kind = Setting::template("{type:-t3.micro}").unwrap();
    let asked = scene.worker("asked", scene.bare_driver().image(image).offer(kind).build().unwrap());
    let cannot = |build: Build| match failure(&asked, &build) {
        SubstantiateError::Cannot { reason } => reason.to_string(),
        other => panic!("{other:?}"),
    };
    let reason = cannot(Build::new("b").with_property("image", missing));
    assert!(reason.contains("InvalidAMIID.NotFound"), "{reason}");
    let good = || Build::new("c").with_property("image", &*scene.image);
    let reason = cannot(good().with_property("type", "t3.gigantic"));
    assert!(reason.contains("t3.gigantic"), "{reason}");
    assert!(cannot(Build::new("d")).contains("no property \"image\""));
    assert!(asked.status().quarantine.is_none());
    drop(lease(&asked, &good()));

    // What one setting has wrong is not the build's because it has chosen another one.
    let why = Setting::template("{why:-tests}").unwrap();
    let addressed = scene.driver().user_data("").tag("why", why).elastic_ip("203.0.113.9").build().unwrap();
    let (cause, reason) = failed(&scene.worker("addressed", addressed), &Build::new("e"));
    assert_eq!(cause, FailureCause::Infrastructure);
    assert!(reason.contains("no address 203.0.113.9"), "{reason}");
    let address = Setting::<String>::template("{address}").unwrap();
    let addressed = scene.worker("chosen", scene.driver().user_data("").elastic_ip(address).build().unwrap());
    let error = failure(&addressed, &Build::new("f").with_property("address", "203.0.113.9"));
    assert!(matches!(error, SubstantiateError::Cannot { .. }), "{error:?}");

    // Where the master is, is for the farm to say, also when the text that has it in it is the build's.
    let text = Setting::<String>::template("{why:-tests} @LATENT_WORKER_MASTER@").unwrap();
    let told = scene.worker("told", scene.driver().master_address("").user_data(text).build().unwrap());
    let (cause, reason) = failed(&told, &Build::new("g"));
    assert_eq!(cause, FailureCause::Infrastructure);
    assert!(reason.contains("set master_address"), "{reason}");
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn quotas_and_verifications_say_what_to_do() {
    let scene = Scene::new();
    for (code, cause, words) in [
        ("VcpuLimitExceeded", FailureCause::Quota, "higher quota"),
        ("PendingVerification", FailureCause::Infrastructure, "verifies the account"),
        ("UnauthorizedOperation", FailureCause::Credentials, "the policy must allow"),
        ("AuthFailure", FailureCause::Credentials, "is the region enabled"),
        ("OptInRequired", FailureCause::Credentials, "accept the terms"),
    ] {
        let refused = scene.front.inject(Fault::Refuse(400, code), launches);
        let worker = scene.worker(code, scene.driver().build().unwrap());
        let (its, reason) = failed(&worker, &Build::new("b"));
        assert_eq!(its, cause, "{code}: {reason}");
        assert!(reason.contains(words), "{code}: {reason}");
        is_down(&worker);
        drop(refused);
    }
    assert_eq!(scene.cloud.all_machines(), []);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn w10_a_machine_that_ends_before_its_agent_comes_is_told_with_its_reason() {
    let scene = Scene::new();
    let worker = scene.worker("w", scene.driver().user_data("").build().unwrap());
    let mut request = worker.substantiate(&Build::new("b"));
    started(&worker);
    scene.cloud.terminate(&scene.machine().id);
    let error = request.wait_timeout(PATIENCE).unwrap().map(drop).unwrap_err().to_string();
    assert!(error.contains("is terminated") && error.contains("Client.UserInitiatedShutdown"), "{error}");
    is_down(&worker);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn d2_what_cannot_be_attached_fails_the_start_and_the_machine_is_gone() {
    let scene = Scene::new();
    let driver = scene.driver().user_data("").volume("/dev/sdf", "vol-00000000").secret_in_parameter("/farm");
    let worker = scene.worker("w", driver.build().unwrap());
    let (_, reason) = failed(&worker, &Build::new("b"));
    assert!(reason.contains("InvalidVolume.NotFound"), "{reason}");
    is_down(&worker);
    assert_eq!((scene.cloud.all_machines().len(), scene.cloud.machines()), (1, vec![]));
    assert_eq!(scene.cloud.parameters(), [""; 0]);
    scene.finish();
}
