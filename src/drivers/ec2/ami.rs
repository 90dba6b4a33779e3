//! Which image machines are made of: how it is said, how the newest of several is chosen, and what of a machine would
//! outlive it.
//!
//! Pure. Who asks the provider for what there is is `lookups`.

use std::fmt;
use std::str::FromStr;

use regex_lite::Regex;

use super::aws::Element;
use super::settings::BlockDevice;
use crate::BoxError;

/// The image of a machine; see [`Ec2LatentWorkerBuilder::image`](crate::Ec2LatentWorkerBuilder::image).
///
/// As a text, and so in a template of a [`Setting`](crate::Setting), it is `ami-…`, or `ssm:` and the name of a parameter.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ami(pub(super) Choice);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Choice {
    Id(String),
    Parameter(String),
    Newest(Newest),
}

/// The newest of the images of some owners.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Newest {
    pub(super) owners: Vec<String>,
    pub(super) part: Part,
    pub(super) pattern: String,
    /// Filters for the provider, by name.
    pub(super) filters: Vec<(String, Vec<String>)>,
}

/// The part of an image that a pattern is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Part {
    Location,
    Name,
}

/// An image that the provider has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Image {
    pub(super) id: String,
    location: String,
    name: String,
    /// Its disks that would outlive their machine; here they do not, and are otherwise as the image has them.
    pub(super) lasting: Vec<BlockDevice>,
}

impl Image {
    /// An `item` of an `imagesSet`.
    pub(super) fn of(element: &Element) -> Option<Self> {
        let text = |path: &str| element.text(path).unwrap_or_default().to_owned();
        let devices = element.items("blockDeviceMapping");
        let lasting = devices.filter(|device| device.text("ebs/deleteOnTermination") == Some("false"));
        Some(Self {
            id: element.text("imageId")?.to_owned(),
            location: text("imageLocation"),
            name: text("name"),
            lasting: lasting.filter_map(ending_disk).collect(),
        })
    }
}

/// A disk of an image that ends with its machine. All of it is said: a launch that names a device says everything about it.
fn ending_disk(device: &Element) -> Option<BlockDevice> {
    let text = |path: &str| device.text(path).filter(|text| !text.is_empty()).map(str::to_owned);
    let number = |path: &str| text(path)?.parse().ok();
    let snapshot = text("ebs/snapshotId");
    // What is made of a snapshot is encrypted as that is.
    let encrypted = snapshot.is_none() && text("ebs/encrypted").as_deref() == Some("true");
    Some(BlockDevice {
        gibibytes: number("ebs/volumeSize"),
        volume_type: text("ebs/volumeType"),
        iops: number("ebs/iops"),
        throughput: number("ebs/throughput"),
        encrypted,
        kms_key: text("ebs/kmsKeyId").filter(|_| encrypted),
        snapshot,
        ..BlockDevice::new(text("deviceName")?)
    })
}

impl Ami {
    /// This one: `ami-…`.
    pub fn id(id: impl Into<String>) -> Self {
        Self(Choice::Id(id.into()))
    }

    /// The one whose id is the value of this parameter of Systems Manager: `/aws/service/debian/release/12/latest/amd64`, say.
    pub fn parameter(name: impl Into<String>) -> Self {
        Self(Choice::Parameter(name.into()))
    }

    /// Of all images of these owners (numbers of accounts, `self`, `amazon`) that are available and in whose *name* the
    /// pattern, a regular expression, is found: the newest one.
    ///
    /// The newest is the one with the greatest first group of the pattern: as a number, when all of them are numbers, else as
    /// a text; without a group it is the one with the greatest name. So `^runner-([0-9]+)$` takes `runner-10` rather than
    /// `runner-9`.
    ///
    /// Owners with many images need a [`filter`](Ami::filter) too, so that the provider need not tell of all of them.
    pub fn newest_by_name(owners: impl IntoIterator<Item = impl Into<String>>, pattern: impl Into<String>) -> Self {
        Self::newest(owners, Part::Name, pattern)
    }

    /// The same with the *location* of the images, `OWNER/NAME`.
    pub fn newest_by_location(owners: impl IntoIterator<Item = impl Into<String>>, pattern: impl Into<String>) -> Self {
        Self::newest(owners, Part::Location, pattern)
    }

    fn newest(owners: impl IntoIterator<Item = impl Into<String>>, part: Part, pattern: impl Into<String>) -> Self {
        let owners = owners.into_iter().map(Into::into).collect();
        Self(Choice::Newest(Newest { owners, part, pattern: pattern.into(), filters: Vec::new() }))
    }

    /// Of several images only those that fit this filter of the provider's `DescribeImages`: `architecture`, or `name` with
    /// wildcards, say. Every call adds one. It means nothing for an image that is named otherwise.
    #[must_use]
    pub fn filter(mut self, name: impl Into<String>, values: impl IntoIterator<Item = impl Into<String>>) -> Self {
        if let Choice::Newest(newest) = &mut self.0 {
            newest.filters.push((name.into(), values.into_iter().map(Into::into).collect()));
        }
        self
    }

    pub(super) fn check(self) -> Result<Self, String> {
        match &self.0 {
            Choice::Id(id) if !is_id(id) => {
                Err(format!("{id:?} is no id of an image: it is ami- and hexadecimal digits"))
            }
            Choice::Parameter(name) if name.is_empty() || name.contains(char::is_whitespace) => {
                Err(format!("{name:?} is no name of a parameter"))
            }
            Choice::Newest(newest) if newest.owners.is_empty() => {
                Err("without owners anybody's image would do: name some, such as \"self\"".into())
            }
            Choice::Newest(newest) => match Regex::new(&newest.pattern) {
                Ok(_) => Ok(self),
                Err(error) => Err(format!("the pattern {:?}: {error}", newest.pattern)),
            },
            _ => Ok(self),
        }
    }
}

/// A text as it may stand in a launch; what is wrong with it else is for the provider to say.
fn is_id(text: &str) -> bool {
    text.strip_prefix("ami-").is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric()))
}

impl fmt::Display for Ami {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Choice::Id(id) => f.write_str(id),
            Choice::Parameter(name) => write!(f, "ssm:{name}"),
            Choice::Newest(Newest { owners, pattern, .. }) => {
                write!(f, "the newest image of {} that is like {pattern:?}", owners.join(", "))
            }
        }
    }
}

impl FromStr for Ami {
    type Err = BoxError;

    fn from_str(text: &str) -> Result<Self, BoxError> {
        let ami = text.strip_prefix("ssm:").map_or_else(|| Self::id(text), Self::parameter);
        Ok(ami.check()?)
    }
}

/// The newest of the images that fit.
pub(super) fn newest<'a>(newest: &Newest, images: &'a [Image]) -> Option<&'a Image> {
    let pattern = Regex::new(&newest.pattern).ok()?;
    let text = |image: &'a Image| match newest.part {
        Part::Location => image.location.as_str(),
        Part::Name => image.name.as_str(),
    };
    let fitting: Vec<(&Image, Option<&str>)> = images
        .iter()
        .filter_map(|image| {
            let found = pattern.captures(text(image))?;
            Some((image, found.get(1).map(|group| group.as_str())))
        })
        .collect();
    let has_groups = pattern.captures_len() > 1;
    let numbers: Option<Vec<u128>> =
        fitting.iter().map(|(_, group)| group.and_then(|group| group.parse().ok())).collect();
    // The id comes last, so that the answer is the same every time.
    let rest = |image: &'a Image| (text(image), image.id.as_str());
    match numbers {
        Some(numbers) => {
            let numbered = fitting.iter().zip(numbers);
            numbered.max_by_key(|((image, _), number)| (*number, rest(image))).map(|((image, _), _)| *image)
        }
        None if has_groups => {
            fitting.iter().max_by_key(|(image, group)| (*group, rest(image))).map(|(image, _)| *image)
        }
        None => fitting.iter().max_by_key(|(image, _)| rest(image)).map(|(image, _)| *image),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, name: &str) -> Image {
        Image { id: id.into(), location: format!("123/{name}"), name: name.into(), lasting: Vec::new() }
    }

    #[test]
    fn disks_that_would_outlive_their_machine_are_said_to_end_and_are_otherwise_as_the_image_has_them() {
        let disk =
            |device: &str, rest: &str| format!("<item><deviceName>{device}</deviceName><ebs>{rest}</ebs></item>");
        let disks = [
            disk("/dev/xvda", "<snapshotId>snap-1</snapshotId><deleteOnTermination>true</deleteOnTermination>"),
            disk(
                "/dev/sdf",
                "<snapshotId>snap-2</snapshotId><volumeSize>8</volumeSize><deleteOnTermination>false</deleteOnTermination>\
                 <volumeType>gp3</volumeType><iops>4000</iops><throughput>200</throughput><encrypted>true</encrypted>",
            ),
            disk(
                "/dev/sdg",
                "<volumeSize>9</volumeSize><deleteOnTermination>false</deleteOnTermination><encrypted>true</encrypted>\
                 <kmsKeyId>a-key</kmsKeyId>",
            ),
            "<item><deviceName>/dev/sdb</deviceName><virtualName>ephemeral0</virtualName></item>".to_owned(),
        ];
        let xml =
            format!("<item><imageId>ami-1</imageId><blockDeviceMapping>{}</blockDeviceMapping></item>", disks.concat());
        let image = Image::of(&Element::parse(&xml).unwrap()).unwrap();
        let expected = [
            BlockDevice::new("/dev/sdf").snapshot("snap-2").size(8).volume_type("gp3").iops(4000).throughput(200),
            BlockDevice::new("/dev/sdg").size(9).encrypted_with("a-key"),
        ];
        assert_eq!(image.lasting, expected);
    }

    fn chosen<'a>(pattern: &str, images: &'a [Image]) -> Option<&'a str> {
        let Choice::Newest(choice) = Ami::newest_by_name(["self"], pattern).check().unwrap().0 else { panic!() };
        newest(&choice, images).map(|image| image.id.as_str())
    }

    #[test]
    fn the_newest_is_that_of_the_greatest_number() {
        let images = [image("a", "runner-9"), image("b", "runner-10"), image("c", "other-11"), image("d", "runner-2")];
        assert_eq!(chosen("^runner-([0-9]+)$", &images), Some("b"));
        assert_eq!(chosen("^runner-([0-9]+)$", &images[..1]), Some("a"));
        assert_eq!(chosen("^none-([0-9]+)$", &images), None);
        assert_eq!(chosen("^runner-([0-9]+)$", &[]), None);
    }

    #[test]
    fn one_group_that_is_no_number_makes_all_of_them_texts() {
        let images = [image("a", "r-9"), image("b", "r-10"), image("c", "r-1b")];
        assert_eq!(chosen("^r-(.*)$", &images), Some("a"));
        let images = [image("a", "r-2026-01-31"), image("b", "r-2026-11-02"), image("c", "r-2025-12-31")];
        assert_eq!(chosen("^r-([0-9-]+)$", &images), Some("b"));
    }

    #[test]
    fn without_a_group_it_is_the_greatest_text() {
        let images = [image("a", "r-9"), image("b", "r-10"), image("z", "q-99")];
        assert_eq!(chosen("^r-", &images), Some("a"));
    }

    #[test]
    fn a_pattern_for_the_location_sees_the_owner() {
        let images = [image("a", "r-1"), image("b", "r-2")];
        let Ami(Choice::Newest(by_location)) = Ami::newest_by_location(["self"], "^123/r-([0-9]+)") else { panic!() };
        assert_eq!(newest(&by_location, &images).unwrap().id, "b");
        assert_eq!(chosen("^123/", &images), None);
    }

    #[test]
    fn equal_ones_are_decided_the_same_way_in_any_order() {
        let mut images = vec![image("a", "r-1"), image("b", "r-01")];
        let first = chosen("^r-([0-9]+)$", &images).map(str::to_owned);
        images.reverse();
        assert_eq!(chosen("^r-([0-9]+)$", &images), first.as_deref());
    }

    #[test]
    fn a_text_is_an_id_or_the_name_of_a_parameter() {
        assert_eq!("ami-0a1".parse::<Ami>().unwrap(), Ami::id("ami-0a1"));
        assert_eq!("ssm:/a/b".parse::<Ami>().unwrap(), Ami::parameter("/a/b"));
        for wrong in ["", "ami-", "image", "ami-0 1", "ssm:", "ssm:a b"] {
            assert!(wrong.parse::<Ami>().is_err(), "{wrong}");
        }
        assert!(Ami::newest_by_name(["self"], "(").check().unwrap_err().contains("pattern"));
        assert!(Ami::newest_by_name(Vec::<String>::new(), "a").check().unwrap_err().contains("anybody's"));
    }
}
