//! Machines that are kept between builds: stopped rather than terminated, and started again.

use latent_worker::{AtStop, Build, EventKind, FailureCause, Offer, Setting};

use crate::support::cloud::between;
use crate::support::front::{Asked, Fault};
use crate::support::{Scene, TYPE, eventually, failed, lease, said, started, stop};

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn a_machine_that_is_kept_goes_on_with_the_next_start() {
    let scene = Scene::new();
    let cloud = &scene.cloud;
    let tagged = Setting::template("{team:-a}").unwrap();
    let zone = format!("{}a", cloud.region);
    let new_volume = || {
        let made = cloud.ec2("CreateVolume", &[("AvailabilityZone", &zone), ("Size", "1")]);
        between(&made, "volumeId").unwrap().to_owned()
    };
    let (ours, theirs) = (new_volume(), new_volume());
    let new_address = || {
        let made = cloud.ec2("AllocateAddress", &[("Domain", "vpc")]);
        between(&made, "publicIp").unwrap().to_owned()
    };
    let (address, other_address) = (new_address(), new_address());
    // moto does not give the address of a machine that has ended back.
    let elastic_ip = Setting::<String>::template(&format!("{{address:-{address}}}")).unwrap();
    let driver =
        scene.driver().at_stop(AtStop::Stop).tag("team", tagged).volume("/dev/sdf", &*ours).elastic_ip(elastic_ip);
    let worker = scene.worker("w", driver.build().unwrap());
    drop(lease(&worker, &Build::new("b")));
    let first = scene.machine();
    let associated = cloud.ec2("DescribeAddresses", &[("PublicIp.1", &address)]);
    assert_eq!(between(&associated, "instanceId"), Some(&*first.id));
    stop(&worker);
    assert_eq!(scene.machine().state, "stopped");
    // Somebody puts a disk of theirs to it.
    cloud.ec2("AttachVolume", &[("InstanceId", &first.id), ("VolumeId", &theirs), ("Device", "/dev/sdz")]);

    let before = scene.front.asked().len();
    let held = lease(&worker, &Build::new("c"));
    assert_eq!(said(&held, "echo again"), "again\n");
    let asked: Vec<_> = scene.front.asked().drain(before..).map(|asked| asked.action).collect();
    assert_eq!(asked[..3], ["CreateTags", "ModifyInstanceAttribute", "StartInstances"], "its own calls");
    assert!(asked[3..].iter().all(|action| action == "DescribeInstances" || action == "AssociateAddress"), "{asked:?}");
    let second = scene.machine();
    assert_eq!((&second.id, &*second.state), (&first.id, "running"));
    assert_ne!(second.tags["latent-worker.attempt"], first.tags["latent-worker.attempt"]);
    assert_eq!(
        (scene.front.count("RunInstances"), scene.front.count("AttachVolume")),
        (1, 1),
        "it has its volume still"
    );
    assert_eq!(scene.front.count("ModifyInstanceAttribute"), 1, "its user data, and nobody's disk");
    drop(held);
    stop(&worker);

    // One that does not fit makes place for another.
    let other = Build::new("d").with_property("team", "b").with_property("address", other_address);
    drop(lease(&worker, &other));
    let asked: Vec<_> = scene.front.asked().into_iter().map(|asked| asked.action).collect();
    let last = |action: &str| asked.iter().rposition(|its| its == action).unwrap();
    let between = &asked[last("TerminateInstances")..last("RunInstances")];
    assert!(between.iter().any(|action| action == "DescribeInstances"), "its volume is not free before it has ended");
    let third = scene.machine();
    assert_ne!(third.id, first.id);
    assert_eq!(scene.cloud.machine(&first.id).state, "terminated");
    stop(&worker);
    scene.cloud.terminate(&third.id);
    scene.finish();
}

/// As a description has it that lags behind.
const STILL_STOPPED: &[(&str, &str)] =
    &[("<code>16</code><name>running</name>", "<code>80</code><name>stopped</name>")];

fn looks(asked: &Asked) -> bool {
    asked.is("DescribeInstances")
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn a_machine_that_goes_on_may_look_stopped_for_a_while_and_not_for_ever() {
    let scene = Scene::new();
    let worker = scene.worker("w", scene.driver().user_data("").at_stop(AtStop::Stop).build().unwrap());
    let request = worker.substantiate(&Build::new("b"));
    started(&worker);
    drop(request);
    stop(&worker);
    let kept = scene.machine();

    let stale = scene.front.inject_times(3, Fault::Replace(STILL_STOPPED), looks);
    let request = worker.substantiate(&Build::new("c"));
    started(&worker);
    assert_eq!((stale.met(), scene.machine().id), (3, kept.id.clone()));
    drop((request, stale));
    stop(&worker);

    let stale = scene.front.inject(Fault::Replace(STILL_STOPPED), looks);
    let (cause, reason) = failed(&worker, &Build::new("d"));
    assert_eq!(cause, FailureCause::Infrastructure);
    assert!(reason.contains("is stopped"), "{reason}");
    drop(stale);
    assert!(eventually(|| scene.cloud.machine(&kept.id).state == "terminated"), "a failed start ends its machine");
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn d3_a_machine_that_cannot_be_kept_is_no_loss_when_it_rests_and_is_left_behind_when_it_runs() {
    let scene = Scene::new();
    let refused = Fault::Refuse(400, "IncorrectInstanceState");
    let refused = scene.front.inject(refused, |asked| asked.is("StopInstances"));
    let worker = scene.worker("w", scene.driver().user_data("").at_stop(AtStop::Stop).build().unwrap());
    let request = worker.substantiate(&Build::new("b"));
    started(&worker);
    // A person has been faster.
    let kept = scene.machine().id;
    scene.cloud.ec2("StopInstances", &[("InstanceId.1", &kept)]);
    drop(request);
    stop(&worker);
    assert_eq!((refused.met(), scene.master.leftovers(), scene.machine().state), (1, vec![], "stopped".into()));

    let request = worker.substantiate(&Build::new("c"));
    started(&worker);
    drop(request);
    stop(&worker);
    let why = scene.await_event(|kind| match kind {
        EventKind::LeftBehind { reason } => Some(reason.to_string()),
        _ => None,
    });
    assert!(why.contains("IncorrectInstanceState"), "{why}");
    assert_eq!(scene.cloud.machine(&kept).id, kept);
    scene.finish_in_the_end();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn a_machine_that_was_kept_and_is_not_to_be_had_again_makes_place_for_one_of_the_next_offer() {
    let scene = Scene::new();
    for code in ["InsufficientInstanceCapacity", "VcpuLimitExceeded"] {
        let driver = scene.driver().offer(Offer::new("t3.small")).user_data("").at_stop(AtStop::Stop);
        let worker = scene.worker(code, driver.build().unwrap());
        let request = worker.substantiate(&Build::new("b"));
        started(&worker);
        drop(request);
        stop(&worker);
        let kept = scene.machine();
        assert_eq!(kept.state, "stopped");

        let refused = Fault::Refuse(400, code);
        let again = scene.front.inject(refused.clone(), |asked| asked.is("StartInstances"));
        let same = move |asked: &Asked| asked.is("RunInstances") && asked.parameter("InstanceType") == TYPE;
        let same = scene.front.inject(refused, same);
        let request = worker.substantiate(&Build::new("c"));
        started(&worker);
        let told = scene.await_event(|kind| match kind {
            EventKind::Progress { text } if text.contains("not to be had again") => Some(text.to_string()),
            _ => None,
        });
        assert!(told.contains(&kept.id) && told.contains(code), "{told}");
        assert_eq!((again.met(), same.met()), (1, 1));
        let machine = scene.machine();
        assert_ne!(machine.id, kept.id);
        assert_eq!(between(&machine.xml, "instanceType"), Some("t3.small"));
        drop((request, again, same));
        stop(&worker);
        scene.cloud.terminate(&machine.id);
    }
    assert_eq!(scene.master.leftovers(), []);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn a_machine_that_cannot_hibernate_is_stopped() {
    let scene = Scene::new();
    let worker = scene.worker("w", scene.driver().user_data("").at_stop(AtStop::Hibernate).build().unwrap());
    for code in ["UnsupportedOperation", "UnsupportedHibernationConfiguration"] {
        let sleeps = |asked: &Asked| asked.is("StopInstances") && asked.parameter("Hibernate") == "true";
        let refused = scene.front.inject(Fault::Refuse(400, code), sleeps);
        let request = worker.substantiate(&Build::new("b"));
        started(&worker);
        drop(request);
        stop(&worker);
        assert_eq!((refused.met(), scene.master.leftovers()), (1, vec![]), "{code}");
        assert_eq!(scene.machine().state, "stopped");
    }
    scene.cloud.terminate(&scene.machine().id);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn a_kept_machine_that_somebody_has_ended_makes_place_for_another() {
    let scene = Scene::new();
    // moto starts machines that have ended.
    for (action, code) in [("CreateTags", "InvalidInstanceID.NotFound"), ("StartInstances", "IncorrectInstanceState")] {
        let worker = scene.worker(action, scene.driver().at_stop(AtStop::Stop).build().unwrap());
        drop(lease(&worker, &Build::new("b")));
        stop(&worker);
        let kept = scene.machine().id;
        scene.cloud.terminate(&kept);
        let refused = scene.front.inject(Fault::Refuse(400, code), move |asked| asked.is(action));
        drop(lease(&worker, &Build::new("c")));
        assert_eq!(refused.met(), 1);
        let next = scene.machine();
        assert_ne!(next.id, kept);
        drop(refused);
        stop(&worker);
        scene.cloud.terminate(&next.id);
    }
    scene.finish();
}
