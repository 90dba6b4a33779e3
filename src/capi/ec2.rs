//! The settings of machines of EC2, as JSON.

use std::time::Duration;

use super::boundary::{Failure, Result};
use super::settings::Members;
use crate::{Ami, AtStop, AwsCredentials, BlockDevice, Ec2LatentWorker, Ec2LatentWorkerBuilder, MetadataAccess, Offer};
use crate::{Secret, Setting};

/// What takes a template, by its name.
type TakesText = fn(Ec2LatentWorkerBuilder, Setting<String>) -> Ec2LatentWorkerBuilder;
const TEXTS: &[(&str, TakesText)] = &[
    ("launch_template", Ec2LatentWorkerBuilder::launch_template),
    ("subnet", Ec2LatentWorkerBuilder::subnet),
    ("key_pair", Ec2LatentWorkerBuilder::key_pair),
    ("placement_group", Ec2LatentWorkerBuilder::placement_group),
    ("tenancy", Ec2LatentWorkerBuilder::tenancy),
    ("profile", Ec2LatentWorkerBuilder::profile),
    ("user_data", Ec2LatentWorkerBuilder::user_data),
    ("elastic_ip", Ec2LatentWorkerBuilder::elastic_ip),
    ("master_address", Ec2LatentWorkerBuilder::master_address),
];

/// What takes a plain text, by its name.
type TakesPlain = fn(Ec2LatentWorkerBuilder, String) -> Ec2LatentWorkerBuilder;
const PLAIN: &[(&str, TakesPlain)] = &[
    ("secret_in_parameter", Ec2LatentWorkerBuilder::secret_in_parameter),
    ("region", Ec2LatentWorkerBuilder::region),
    ("endpoint", Ec2LatentWorkerBuilder::endpoint),
    ("aws_profile", Ec2LatentWorkerBuilder::aws_profile),
];

/// What takes a time, by its name.
type TakesTime = fn(Ec2LatentWorkerBuilder, Duration) -> Ec2LatentWorkerBuilder;
const TIMES: &[(&str, TakesTime)] = &[
    ("poll_interval_ms", Ec2LatentWorkerBuilder::poll_interval),
    ("call_limit_ms", Ec2LatentWorkerBuilder::call_limit),
    ("start_limit_ms", Ec2LatentWorkerBuilder::start_limit),
    ("stop_limit_ms", Ec2LatentWorkerBuilder::stop_limit),
    ("listing_lag_ms", Ec2LatentWorkerBuilder::listing_lag),
    ("shortage_memory_ms", Ec2LatentWorkerBuilder::shortage_memory),
    ("attached_check_interval_ms", Ec2LatentWorkerBuilder::attached_check_interval),
];

const AT_STOP: &[(&str, AtStop)] =
    &[("terminate", AtStop::Terminate), ("stop", AtStop::Stop), ("hibernate", AtStop::Hibernate)];
const METADATA: &[(&str, MetadataAccess)] = &[
    ("token_required", MetadataAccess::TokenRequired),
    ("token_optional", MetadataAccess::TokenOptional),
    ("off", MetadataAccess::Off),
];

pub(super) fn driver_from(json: &str) -> Result<Ec2LatentWorker> {
    let mut settings = Members::parse(json)?;
    let mut builder = Ec2LatentWorker::builder();
    if let Some(image) = settings.typed_template::<Ami>("image")? {
        builder = builder.image(image);
    }
    for offer in settings.typed_templates::<Offer>("offers")? {
        builder = builder.offer(offer);
    }
    for (name, take) in TEXTS {
        if let Some(template) = settings.template(name)? {
            builder = take(builder, template);
        }
    }
    for (name, take) in PLAIN {
        if let Some(text) = settings.text(name)? {
            builder = take(builder, text);
        }
    }
    for (name, take) in TIMES {
        if let Some(time) = settings.milliseconds(name)? {
            builder = take(builder, time);
        }
    }
    let groups = settings.templates("security_groups")?;
    if !groups.is_empty() {
        builder = builder.security_groups(groups);
    }
    for device in settings.objects("block_devices")? {
        builder = builder.block_device(block_device(device)?);
    }
    for (device, volume) in settings.named_templates("volumes")? {
        builder = builder.volume(device, volume);
    }
    for (key, value) in settings.named_templates("tags")? {
        builder = builder.tag(key, value);
    }
    if let Some(access) = settings.word("metadata", METADATA)? {
        builder = builder.metadata(access);
    }
    if let Some(at_stop) = settings.word("at_stop", AT_STOP)? {
        builder = builder.at_stop(at_stop);
    }
    if let Some(given) = settings.object("credentials")? {
        builder = builder.credentials(credentials(given)?);
    }
    settings.end()?;
    builder.build().map_err(|error| Failure::argument(format!("settings: {error}")))
}

fn block_device(mut given: Members) -> Result<BlockDevice> {
    let name = given.text("device")?;
    let mut device = BlockDevice::new(given.needed("device", name)?);
    if let Some(gibibytes) = given.number("size_gib")? {
        device = device.size(gibibytes);
    }
    if let Some(volume_type) = given.text("volume_type")? {
        device = device.volume_type(volume_type);
    }
    if let Some(iops) = given.number("iops")? {
        device = device.iops(iops);
    }
    if let Some(throughput) = given.number("throughput")? {
        device = device.throughput(throughput);
    }
    if given.flag("encrypted")? == Some(true) {
        device = device.encrypted();
    }
    if let Some(key) = given.text("kms_key")? {
        device = device.encrypted_with(key);
    }
    if let Some(snapshot) = given.text("snapshot")? {
        device = device.snapshot(snapshot);
    }
    if given.flag("kept_after_termination")? == Some(true) {
        device = device.kept_after_termination();
    }
    given.end()?;
    Ok(device)
}

fn credentials(mut given: Members) -> Result<AwsCredentials> {
    let (id, key) = (given.text("access_key_id")?, given.text("secret_access_key")?);
    let (id, key) = (given.needed("access_key_id", id)?, given.needed("secret_access_key", key)?);
    let mut credentials = AwsCredentials::new(id, Secret::new(key));
    if let Some(token) = given.text("session_token")? {
        credentials = credentials.with_session_token(Secret::new(token));
    }
    given.end()?;
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    use super::driver_from;

    fn refused(json: &str) -> String {
        driver_from(json).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn all_settings_make_a_driver() {
        let driver = driver_from(
            r##"{
                "image": "ami-0123456789abcdef0", "offers": ["c7i.large:spot<0.08", "{type:-c7i.large}"],
                "launch_template": "build:1", "subnet": "subnet-1", "key_pair": "people", "placement_group": "near",
                "tenancy": "default", "profile": "builder", "user_data": "#!/bin/sh\n", "elastic_ip": "eipalloc-1",
                "master_address": "10.0.0.1:9989", "secret_in_parameter": "/farm", "region": "eu-west-1",
                "endpoint": "http://127.0.0.1:5000", "poll_interval_ms": 1000, "call_limit_ms": 1000,
                "start_limit_ms": 1000, "stop_limit_ms": 1000, "listing_lag_ms": 1000, "shortage_memory_ms": 1000,
                "attached_check_interval_ms": 1000, "security_groups": ["sg-1"], "volumes": {"/dev/sdf": "vol-1"},
                "block_devices": [{"device": "/dev/xvda", "size_gib": 20, "volume_type": "gp3", "iops": 4000,
                    "throughput": 200, "encrypted": true, "snapshot": "snap-1", "kept_after_termination": true}],
                "tags": {"team": "a"}, "metadata": "token_required", "at_stop": "terminate",
                "credentials": {"access_key_id": "id", "secret_access_key": "hunter2", "session_token": "token"}
            }"##,
        );
        assert!(driver.is_ok(), "{}", driver.map(|_| ()).unwrap_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_name_and_without_a_password() {
        for (json, words) in [
            ("[]", "no JSON object"),
            (r#"{"image": "ami-1", "offrs": []}"#, "offrs"),
            ("{}", "the image: there is none"),
            (r#"{"image": "ami-1"}"#, "the offers: there are none"),
            (r#"{"offers": "c7i.large"}"#, "offers: must be a list of texts"),
            (r#"{"at_stop": "explode"}"#, "at_stop: must be one of terminate, stop, hibernate"),
            (r#"{"block_devices": [{"size_gib": 20}]}"#, "block_devices.device: is missing"),
            (r#"{"block_devices": [{"device": "a", "size_gib": -1}]}"#, "block_devices.size_gib"),
            (r#"{"credentials": {"access_key_id": "hunter2"}}"#, "credentials.secret_access_key: is missing"),
            (r#"{"credentials": "hunter2"}"#, "credentials: must be an object"),
            (r#"{"user_data": "hunter2 { unclosed"}"#, "user_data: is no template"),
            (r#"{"call_limit_ms": "hunter2"}"#, "call_limit_ms: must be a number"),
        ] {
            assert!(refused(json).contains(words), "{json}: {}", refused(json));
            assert!(!refused(json).contains("hunter2"), "{json}: {}", refused(json));
        }
    }
}
