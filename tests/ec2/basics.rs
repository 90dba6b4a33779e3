//! Lives of machines on which nothing goes wrong, with every option that moto knows.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use latent_worker::{Ami, BlockDevice, Build, EventKind, MetadataAccess, Offer, Setting, StopCause, WorkerState};

use crate::support::cloud::between;
use crate::support::front::{Asked, Fault};
use crate::support::{PATIENCE, Scene, TYPE, eventually, lease, said, started, stop};

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn a_build_runs_on_a_machine_that_is_gone_afterwards() {
    let scene = Scene::new();
    let worker = scene.worker("w", scene.driver().tag("team", "blue").build().unwrap());
    let held = lease(&worker, &Build::new("b"));
    assert_eq!(said(&held, "echo hello"), "hello\n");

    let machine = scene.machine();
    let identity = [("latent-worker.worker", "w"), ("latent-worker.epoch", "1"), ("team", "blue")];
    for (key, value) in identity.into_iter().chain([("Name", "latent-worker w")]) {
        assert_eq!(machine.tags.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert!(["latent-worker.owner", "latent-worker.attempt"].iter().all(|key| machine.tags[*key].len() == 32));
    assert_eq!(between(&machine.xml, "httpTokens"), Some("required"));
    let volume = between(&machine.xml, "volumeId").unwrap();
    let volumes = scene.cloud.ec2("DescribeVolumes", &[("VolumeId.1", volume)]);
    assert!(volumes.contains(&machine.tags["latent-worker.attempt"]), "{volumes}");
    let shutdown = [("InstanceId", &*machine.id), ("Attribute", "instanceInitiatedShutdownBehavior")];
    assert!(scene.cloud.ec2("DescribeInstanceAttribute", &shutdown).contains("terminate"));
    assert_eq!(scene.front.count("RunInstances"), 1);
    let images: Vec<_> = scene.front.asked().into_iter().filter(|asked| asked.is("DescribeImages")).collect();
    let [image] = &images[..] else { panic!("for the disks that it has, once; its id is known: {images:?}") };
    // One of somebody else that is deprecated is not told of otherwise.
    assert_eq!(image.parameter("ImageId.1"), scene.image);

    drop(held);
    stop(&worker);
    assert_eq!(scene.cloud.machine(&machine.id).state, "terminated");
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn every_option_that_the_provider_knows_reaches_it() {
    let scene = Scene::new();
    let cloud = &scene.cloud;
    cloud.ec2("CreateKeyPair", &[("KeyName", "a-key")]);
    let group = cloud.ec2("CreateSecurityGroup", &[("GroupName", "a-group"), ("GroupDescription", "x")]);
    let group = between(&group, "groupId").unwrap().to_owned();
    let subnets = cloud.ec2("DescribeSubnets", &[]);
    let subnet = between(&subnets, "subnetId").unwrap().to_owned();
    let zone = between(&subnets, "availabilityZone").unwrap().to_owned();
    let volume = cloud.ec2("CreateVolume", &[("AvailabilityZone", &zone), ("Size", "1")]);
    let volume = between(&volume, "volumeId").unwrap().to_owned();
    let address = cloud.ec2("AllocateAddress", &[("Domain", "vpc")]);
    let allocation = between(&address, "allocationId").unwrap().to_owned();

    let driver = scene
        .bare_driver()
        .image(Ami::id(&*scene.image))
        .offer(Offer::new("t3.small").in_subnet(&*subnet).spot_below(0.5))
        .key_pair("a-key")
        .security_groups([&*group])
        .tenancy("default")
        .metadata(MetadataAccess::TokenOptional)
        .block_device(BlockDevice::new("/dev/xvda").size(20).volume_type("gp3").encrypted())
        .block_device(BlockDevice::new("/dev/sdg").size(2).kept_after_termination())
        .volume("/dev/sdf", &*volume)
        .elastic_ip(&*allocation)
        .build()
        .unwrap();
    let worker = scene.worker("w", driver);
    let held = lease(&worker, &Build::new("b"));
    let machine = scene.machine();
    for (name, value) in [
        ("instanceType", "t3.small"),
        ("keyName", "a-key"),
        ("subnetId", &*subnet),
        ("groupId", &*group),
        ("httpTokens", "optional"),
        ("instanceLifecycle", "spot"),
    ] {
        assert_eq!(between(&machine.xml, name), Some(value), "{name}");
    }
    let disks: BTreeMap<&str, &str> = machine
        .xml
        .split("<deviceName>")
        .skip(1)
        .filter_map(|disk| Some((disk.split('<').next()?, between(disk, "deleteOnTermination")?)))
        .collect();
    let of_image = ("/dev/sda1", "true");
    assert_eq!(disks, [of_image, ("/dev/sdf", "false"), ("/dev/sdg", "false"), ("/dev/xvda", "true")].into());
    let associated = cloud.ec2("DescribeAddresses", &[("AllocationId.1", &allocation)]);
    assert_eq!(between(&associated, "instanceId"), Some(&*machine.id));

    drop(held);
    stop(&worker);
    let state = |id: &str| {
        let (_, volumes) = cloud.try_ec2("DescribeVolumes", &[("VolumeId.1", id)]);
        between(&volumes, "status").map(str::to_owned)
    };
    assert_eq!(state(&volume).as_deref(), Some("available"), "somebody else's volume stays");
    // moto does not give the address of a machine that has ended back.
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn the_newest_image_is_found_by_its_name_and_another_by_a_parameter() {
    let scene = Scene::new();
    let newest = scene.cloud.image("runner-10");
    scene.cloud.image("runner-9");
    scene.cloud.image("other-99");
    let named = serde_json::json!({ "Name": "/images/runner", "Value": scene.image, "Type": "String" });
    assert_eq!(scene.cloud.try_ssm("PutParameter", &named).0, 200);

    let images = Setting::computed(|properties| {
        Ok(match properties.get("image") {
            Some(text) => text.parse()?,
            None => Ami::newest_by_name(["self"], "^runner-([0-9]+)$").filter("name", ["runner-*"]),
        })
    });
    // The first page has others only.
    let page = "<DescribeImagesResponse><imagesSet><item><imageId>ami-1</imageId><name>runner-3</name></item></imagesSet>\
                <nextToken>more</nextToken></DescribeImagesResponse>";
    let _page = scene.front.inject_times(1, Fault::Say(page.into()), |asked| asked.is("DescribeImages"));
    let worker = scene.worker("w", scene.bare_driver().image(images).offer(Offer::new(TYPE)).build().unwrap());
    drop(lease(&worker, &Build::new("b")));
    assert_eq!(between(&scene.machine().xml, "imageId"), Some(&*newest));
    let pages = scene.front.asked().into_iter().filter(|asked| asked.is("DescribeImages"));
    let pages = pages.map(|asked| ["NextToken", "MaxResults"].map(|name| asked.parameter(name).to_owned()));
    assert_eq!(pages.collect::<Vec<_>>(), [["", "1000"], ["more", "1000"]]);
    drop(lease(&worker, &Build::new("c").with_property("image", "ssm:/images/runner")));
    assert_eq!(between(&scene.machine().xml, "imageId"), Some(&*scene.image));
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn w11_a_build_gets_the_machine_that_its_properties_ask_for() {
    let scene = Scene::new();
    let driver = scene
        .bare_driver()
        .image(Ami::id(&*scene.image))
        .offer(Setting::template("{type:-t3.micro}").unwrap())
        .tag("why", Setting::template("{why:-tests}").unwrap())
        .build()
        .unwrap();
    let worker = scene.worker("w", driver);
    drop(lease(&worker, &Build::new("a")));
    let first = scene.machine();
    drop(lease(&worker, &Build::new("b").with_property("unused", "x")));
    assert_eq!(scene.machine().id, first.id, "the same for all that matters");
    let queued = scene.master.submit(Build::new("c").with_property("type", "t3.small"));
    let cause = scene.await_event(|kind| match kind {
        EventKind::StopCalled { cause, .. } => Some(*cause),
        _ => None,
    });
    assert_eq!(cause, StopCause::Incompatible);
    let held = queued.wait_timeout(PATIENCE).expect("an answer in time").unwrap();
    assert_eq!(between(&scene.machine().xml, "instanceType"), Some("t3.small"));
    drop(held);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn a_launch_template_says_what_the_driver_does_not() {
    let scene = Scene::new();
    let data = [
        ("LaunchTemplateName", "farm"),
        ("LaunchTemplateData.ImageId", &*scene.image),
        ("LaunchTemplateData.InstanceType", "t3.small"),
    ];
    scene.cloud.ec2("CreateLaunchTemplate", &data);
    let worker = scene.worker("w", scene.bare_driver().launch_template("farm:1").build().unwrap());
    drop(lease(&worker, &Build::new("b")));
    assert_eq!(between(&scene.machine().xml, "instanceType"), Some("t3.small"));
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn a1_a_secret_in_a_parameter_is_not_in_the_user_data_and_goes_with_the_machine() {
    let scene = Scene::new();
    let driver = scene.driver().secret_in_parameter("/farm/secrets");
    let driver = driver.user_data("PARAMETER=@LATENT_WORKER_SECRET_PARAMETER@ in @LATENT_WORKER_REGION@\n");
    let worker = scene.worker("w", driver.build().unwrap());
    let request = worker.substantiate(&Build::new("b"));
    started(&worker);
    let machine = scene.machine();
    let names = scene.cloud.parameters();
    let tags = &machine.tags;
    let name = format!("/farm/secrets/{}/{}", tags["latent-worker.owner"], tags["latent-worker.attempt"]);
    assert_eq!(names, [&*name]);
    let told = BASE64.decode(scene.cloud.user_data(&machine.id).as_bytes()).unwrap();
    let region = scene.cloud.region;
    assert_eq!(String::from_utf8(told).unwrap(), format!("PARAMETER={name} in {region}\n"));
    let (_, kept) = scene.cloud.try_ssm("GetParameter", &serde_json::json!({ "Name": name, "WithDecryption": true }));
    let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
    assert_eq!(kept["Parameter"]["Type"], "SecureString");
    // The secret in it is the one that lets the agent in.
    let secret = kept["Parameter"]["Value"].as_str().unwrap();
    let attached = scene.master.attach("w", secret, ()).unwrap();
    drop(request);
    stop(&worker);
    drop(attached);
    assert_eq!(scene.cloud.parameters(), [""; 0]);
    scene.finish();
}

/// What is said of the image of a scene that has a disk which would outlive its machine.
fn image_with_a_lasting_disk(image: &str) -> String {
    format!(
        "<DescribeImagesResponse><imagesSet><item><imageId>{image}</imageId><name>runner-1</name><blockDeviceMapping><item>\
         <deviceName>/dev/sdh</deviceName><ebs><volumeSize>3</volumeSize><deleteOnTermination>false</deleteOnTermination></ebs>\
         </item></blockDeviceMapping></item></imagesSet></DescribeImagesResponse>"
    )
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn w2_a_start_that_ends_before_its_machine_runs_leaves_no_disk_of_its_image() {
    let scene = Scene::new();
    let told =
        scene.front.inject(Fault::Say(image_with_a_lasting_disk(&scene.image)), |asked| asked.is("DescribeImages"));
    scene.front.pending(PATIENCE);
    let images = [Ami::id(&*scene.image), Ami::newest_by_name(["self"], "^runner-([0-9]+)$")];
    for (number, image) in (1..).zip(images) {
        let driver = scene.bare_driver().image(image).offer(Offer::new(TYPE)).build().unwrap();
        let worker = scene.worker(&format!("w{number}"), driver);
        let request = worker.substantiate(&Build::new("b"));
        assert!(eventually(|| !scene.cloud.machines().is_empty()));
        let machine = scene.machine();
        assert_eq!(between(&machine.xml, "deleteOnTermination"), Some("true"), "{}", machine.xml);
        drop(request);
        stop(&worker);
        assert_eq!(told.met(), number, "one look at the image");
        let volumes = scene.cloud.ec2("DescribeVolumes", &[]);
        assert!(!volumes.contains("<volumeId>"), "{volumes}");
    }
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn a_disk_that_is_to_stay_stays_whatever_the_image_says() {
    let scene = Scene::new();
    let _told =
        scene.front.inject(Fault::Say(image_with_a_lasting_disk(&scene.image)), |asked| asked.is("DescribeImages"));
    let driver = scene.driver().block_device(BlockDevice::new("/dev/sdh").size(3).kept_after_termination());
    let worker = scene.worker("w", driver.build().unwrap());
    drop(lease(&worker, &Build::new("b")));
    let machine = scene.machine();
    assert_eq!(between(&machine.xml, "deleteOnTermination"), Some("false"), "{}", machine.xml);
    stop(&worker);
    assert!(scene.cloud.ec2("DescribeVolumes", &[]).contains("<volumeId>"), "it is the user's");
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn disks_that_a_template_would_leave_behind_go_with_the_machine() {
    let scene = Scene::new();
    // As moto has it when a disk is named without saying what becomes of it.
    let data = [
        ("LaunchTemplateName", "leaky"),
        ("LaunchTemplateData.ImageId", &*scene.image),
        ("LaunchTemplateData.InstanceType", TYPE),
        ("LaunchTemplateData.BlockDeviceMapping.1.DeviceName", "/dev/sdh"),
        ("LaunchTemplateData.BlockDeviceMapping.1.Ebs.VolumeSize", "3"),
        ("LaunchTemplateData.BlockDeviceMapping.1.Ebs.DeleteOnTermination", "false"),
    ];
    scene.cloud.ec2("CreateLaunchTemplate", &data);
    let worker = scene.worker("w", scene.bare_driver().launch_template("leaky").build().unwrap());
    drop(lease(&worker, &Build::new("b")));
    let machine = scene.machine();
    assert_eq!(between(&machine.xml, "deleteOnTermination"), Some("true"), "{}", machine.xml);
    stop(&worker);
    let volumes = scene.cloud.ec2("DescribeVolumes", &[]);
    assert!(!volumes.contains("<volumeId>"), "{volumes}");
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn the_highest_price_of_a_spot_machine_is_so_many_times_the_average() {
    let scene = Scene::new();
    let history = "<DescribeSpotPriceHistoryResponse><spotPriceHistorySet><item><spotPrice>0.10</spotPrice></item><item>\
                   <spotPrice>0.30</spotPrice></item></spotPriceHistorySet><nextToken/></DescribeSpotPriceHistoryResponse>";
    let asks = |asked: &Asked| asked.is("DescribeSpotPriceHistory");
    let told = scene.front.inject(Fault::Say(history.into()), asks);
    let zone = format!("{}a", scene.cloud.region);
    let offer = Offer::new(TYPE).in_zone(&*zone).spot_times_average(1.5);
    let driver = scene.bare_driver().image(Ami::id(&*scene.image)).offer(offer).build().unwrap();
    let workers = ["w1", "w2"].map(|name| scene.worker(name, driver.clone()));
    workers.iter().for_each(|worker| drop(lease(worker, &Build::new("b"))));
    assert_eq!(told.met(), 1, "prices are looked up once in a while");
    let asked = scene.front.asked();
    let price = |asked: &Asked| asked.parameter("InstanceMarketOptions.SpotOptions.MaxPrice").to_owned();
    let launches: Vec<_> = asked.iter().filter(|asked| asked.is("RunInstances")).map(price).collect();
    assert_eq!(launches, ["0.300000"; 2]);
    let history = asked.iter().find(|asked| asks(asked)).unwrap();
    assert_eq!((history.parameter("InstanceType.1"), history.parameter("AvailabilityZone")), (TYPE, &*zone));
    assert!(history.parameter("StartTime").ends_with('Z') && history.parameter("StartTime").len() == 20);
    drop(told);
    // And as moto tells it.
    let other = Offer::new("t3.small").in_zone(&*zone).spot_times_average(2.0);
    let driver = scene.bare_driver().image(Ami::id(&*scene.image)).offer(other).build().unwrap();
    drop(lease(&scene.worker("w3", driver), &Build::new("b")));
    assert_eq!(scene.front.count("DescribeSpotPriceHistory"), 2);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn a_fast_stop_does_not_wait_until_the_machine_has_ended() {
    let scene = Scene::new();
    let worker = scene.worker("w", scene.driver().build().unwrap());
    drop(lease(&worker, &Build::new("b")));
    let looks = scene.front.count("DescribeInstances");
    assert!(worker.insubstantiate(true).wait_timeout(PATIENCE));
    assert_eq!(scene.front.count("DescribeInstances"), looks);
    assert_eq!(scene.front.count("TerminateInstances"), 1);
    assert!(eventually(|| worker.status().state == WorkerState::NotSubstantiated));
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn s0_a_hurried_stop_waits_no_longer_until_the_machine_has_ended() {
    let scene = Scene::new();
    let worker = scene.worker("w", scene.driver().build().unwrap());
    drop(lease(&worker, &Build::new("b")));
    // It has been asked to end, and never does.
    let looks = |asked: &Asked| asked.is("DescribeInstances");
    let running = Fault::Replace(&[("<code>48</code>", "<code>32</code>"), ("terminated", "shutting-down")]);
    let looked = scene.front.inject(running, looks);
    worker.insubstantiate(false);
    assert!(eventually(|| looked.met() > 1), "the stop waits for its end");
    assert!(worker.insubstantiate(true).wait_timeout(PATIENCE));
    assert_eq!(scene.front.count("TerminateInstances"), 1);
    drop(looked);
    scene.finish();
}

#[test]
#[ignore = "needs moto (TEST_MOTO_SERVER)"]
fn which_allocation_an_address_is_of_is_looked_up_once_in_a_while() {
    let scene = Scene::new();
    let address = scene.cloud.ec2("AllocateAddress", &[("Domain", "vpc")]);
    let (address, allocation) = ["publicIp", "allocationId"].map(|name| between(&address, name).unwrap()).into();
    let driver = scene.driver().user_data("").elastic_ip(address).build().unwrap();
    let worker = scene.worker("w", driver);
    let taken = scene
        .front
        .inject(Fault::Say("<AssociateAddressResponse/>".into()), |asked: &Asked| asked.is("AssociateAddress"));
    for build in ["b", "c"] {
        let request = worker.substantiate(&Build::new(build));
        started(&worker);
        drop(request);
        stop(&worker);
    }
    let asked = scene.front.asked().into_iter().filter(|asked| asked.is("AssociateAddress"));
    let allocations: Vec<_> = asked.map(|asked| asked.parameter("AllocationId").to_owned()).collect();
    assert_eq!(allocations, [allocation; 2]);
    assert_eq!((taken.met(), scene.front.count("DescribeAddresses")), (2, 1));
    drop(taken);
    scene.finish();
}
