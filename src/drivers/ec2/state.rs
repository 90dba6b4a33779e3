//! What the provider says of a machine, and what that means: whether it comes up, whether it is well, whether it will be
//! taken away.
//!
//! Pure. The words are those of `DescribeInstances`, `DescribeInstanceStatus` and `DescribeSpotInstanceRequests`
//! (API version 2016-11-15).

use super::aws::Element;
use crate::{FailureCause, Health};

/// A machine, as a description has it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Machine {
    pub(super) id: String,
    /// `pending`, `running`, `shutting-down`, `terminated`, `stopping`, `stopped`.
    pub(super) state: String,
    /// Why it is in that state: a code such as `Server.SpotInstanceTermination`, and its message.
    pub(super) reason_code: String,
    pub(super) reason: String,
    pub(super) instance_type: String,
    pub(super) zone: String,
    pub(super) address: Option<String>,
    /// The request that a spot machine was made for.
    pub(super) spot_request: Option<String>,
    tags: Vec<(String, String)>,
    /// The devices of its volumes that are not deleted with it.
    pub(super) lasting: Vec<String>,
    /// The ids of its volumes.
    pub(super) volumes: Vec<String>,
}

impl Machine {
    /// An `item` of an `instancesSet`.
    pub(super) fn of(element: &Element) -> Option<Self> {
        let text = |path: &str| element.text(path).unwrap_or_default().trim().to_owned();
        let some = |path: &str| Some(text(path)).filter(|text| !text.is_empty());
        let tags = element.items("tagSet");
        let tags = tags.filter_map(|tag| Some((tag.text("key")?.into(), tag.text("value").unwrap_or_default().into())));
        let lasting = element
            .items("blockDeviceMapping")
            .filter(|device| device.text("ebs/deleteOnTermination") == Some("false"))
            .filter_map(|device| device.text("deviceName").map(Into::into));
        let volumes = element.items("blockDeviceMapping").filter_map(|device| device.text("ebs/volumeId"));
        Some(Self {
            id: some("instanceId")?,
            volumes: volumes.map(Into::into).collect(),
            state: some("instanceState/name")?,
            reason_code: text("stateReason/code"),
            reason: some("stateReason/message").unwrap_or_else(|| text("reason")),
            instance_type: text("instanceType"),
            zone: text("placement/availabilityZone"),
            address: some("ipAddress").or_else(|| some("privateIpAddress")),
            spot_request: some("spotInstanceRequestId"),
            tags: tags.collect(),
            lasting: lasting.collect(),
        })
    }

    /// All machines of an answer to `DescribeInstances`.
    pub(super) fn all_of(answer: &Element) -> impl Iterator<Item = Self> + '_ {
        answer.items("reservationSet").flat_map(|reservation| reservation.items("instancesSet")).filter_map(Self::of)
    }

    pub(super) fn tag(&self, key: &str) -> Option<&str> {
        self.tags.iter().find(|(its, _)| its == key).map(|(_, value)| value.as_str())
    }

    /// Whether it is gone, or will be whatever anybody does.
    pub(super) fn is_ending(&self) -> bool {
        matches!(&*self.state, "shutting-down" | "terminated")
    }

    /// Whether it is `stopped`, say, or will never be, since it is gone.
    pub(super) fn rests_as(&self, state: &str) -> bool {
        self.state == state || self.state == "terminated"
    }

    /// What a start that waits for it makes of it.
    pub(super) fn coming(&self) -> Coming {
        match &*self.state {
            "running" => Coming::Up,
            "shutting-down" | "terminated" | "stopped" | "stopping" => Coming::Failed(self.cause()),
            _ => Coming::NotYet,
        }
    }

    /// Why a launch that was accepted has come to nothing: "Instance terminates immediately" in the Amazon EC2 User Guide.
    fn cause(&self) -> FailureCause {
        match &*self.reason_code {
            "Server.InsufficientInstanceCapacity"
            | "Server.SpotInstanceTermination"
            | "Server.SpotInstanceShutdown" => FailureCause::Capacity,
            "Client.VolumeLimitExceeded" => FailureCause::Quota,
            _ => FailureCause::Infrastructure,
        }
    }

    /// What a check makes of it.
    pub(super) fn health(&self) -> Health {
        match &*self.state {
            "pending" | "running" => Health::Good,
            _ => Health::bad(self.story()),
        }
    }

    /// What has become of it, for people.
    pub(super) fn story(&self) -> String {
        let Self { id, state, .. } = self;
        let advice = match &*self.reason_code {
            "Client.UserInitiatedShutdown" => " (somebody has stopped or terminated it)",
            "Client.InstanceInitiatedShutdown" => " (it has shut itself down: look at its console)",
            "Client.InternalError" => {
                " (often a disk is encrypted with a key that the launch may not use: allow kms:CreateGrant and kms:Decrypt)"
            }
            "Client.VolumeLimitExceeded" => " (ask for a larger quota of volumes, or use smaller disks)",
            _ => "",
        };
        match (&*self.reason_code, &*self.reason) {
            ("", "") => format!("machine {id} is {state}"),
            ("", reason) => format!("machine {id} is {state}: {reason}"),
            // The message begins with the code most of the time.
            (code, reason) if reason.starts_with(code) => format!("machine {id} is {state}: {reason}{advice}"),
            (code, reason) => format!("machine {id} is {state}: {code}: {reason}{advice}"),
        }
    }
}

/// How far a machine has come that is being started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Coming {
    NotYet,
    Up,
    Failed(FailureCause),
}

/// What the checks of the provider say of a machine that runs, and what it has planned for it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Status {
    pub(super) id: String,
    system: String,
    instance: String,
    events: Vec<PlannedEvent>,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct PlannedEvent {
    code: String,
    description: String,
    not_before: String,
}

impl Status {
    /// An `item` of an `instanceStatusSet`.
    fn of(element: &Element) -> Option<Self> {
        let text = |element: &Element, path: &str| element.text(path).unwrap_or_default().trim().to_owned();
        let events = element.items("eventsSet").map(|event| PlannedEvent {
            code: text(event, "code"),
            description: text(event, "description"),
            not_before: text(event, "notBefore"),
        });
        Some(Self {
            id: element.text("instanceId")?.trim().into(),
            system: text(element, "systemStatus/status"),
            instance: text(element, "instanceStatus/status"),
            events: events.collect(),
        })
    }

    /// All of an answer to `DescribeInstanceStatus`.
    pub(super) fn all_of(answer: &Element) -> impl Iterator<Item = Self> + '_ {
        answer.items("instanceStatusSet").filter_map(Self::of)
    }

    pub(super) fn health(&self) -> Health {
        let id = &self.id;
        if self.system == "impaired" {
            return Health::bad(format!("machine {id}: the provider's check of the hardware below it has failed"));
        }
        if self.instance == "impaired" {
            return Health::bad(format!("machine {id}: the provider's check of its network and system has failed"));
        }
        // "[Completed]" and "[Canceled]" events are told for a while ("Scheduled events" in the Amazon EC2 User Guide).
        let coming = |event: &&PlannedEvent| !event.description.starts_with('[');
        match self.events.iter().filter(coming).find(|event| PLANNED_ENDS.contains(&&*event.code)) {
            Some(PlannedEvent { code, description, not_before }) => Health::bad(format!(
                "machine {id} is going to be taken away: {code} from {not_before} on: {description}"
            )),
            None => Health::Good,
        }
    }
}

/// Planned events after which a machine does not run on as it did.
const PLANNED_ENDS: [&str; 4] = ["instance-retirement", "instance-stop", "instance-reboot", "system-reboot"];

/// How a request for a spot machine stands.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct SpotRequest {
    pub(super) id: String,
    /// `fulfilled`, `marked-for-termination`, …
    code: String,
    message: String,
}

impl SpotRequest {
    /// All of an answer to `DescribeSpotInstanceRequests`.
    pub(super) fn all_of(answer: &Element) -> impl Iterator<Item = Self> + '_ {
        answer.items("spotInstanceRequestSet").filter_map(|element| {
            let text = |path: &str| element.text(path).unwrap_or_default().trim().to_owned();
            let id = element.text("spotInstanceRequestId")?.trim().to_owned();
            Some(Self { id, code: text("status/code"), message: text("status/message") })
        })
    }

    /// Of the machine that was made for it: `marked-for-…` is the notice of an interruption, and the others tell that it has
    /// come ("Spot request status codes" in the Amazon EC2 User Guide).
    pub(super) fn health(&self) -> Health {
        let ends = self.code.starts_with("marked-for-") || self.code.starts_with("instance-terminated-");
        if !ends && self.code != "instance-stopped-by-price" && self.code != "instance-stopped-no-capacity" {
            return Health::Good;
        }
        Health::bad(format!("the spot machine is interrupted: {}: {}", self.code, self.message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(xml: &str) -> Machine {
        let answer = format!(
            "<DescribeInstancesResponse><reservationSet><item><instancesSet><item><instanceId>i-1</instanceId>{xml}</item>\
             </instancesSet></item></reservationSet></DescribeInstancesResponse>"
        );
        let answer = Element::parse(&answer).unwrap();
        let mut all = Machine::all_of(&answer);
        let first = all.next().unwrap();
        assert_eq!(all.next(), None);
        first
    }

    fn in_state(state: &str, code: &str) -> Machine {
        machine(&format!(
            "<instanceState><name>{state}</name></instanceState><stateReason><code>{code}</code><message>{code}: \
             words</message></stateReason>"
        ))
    }

    #[test]
    fn a_machine_is_what_its_description_says() {
        let found = machine(
            "<instanceState><code>16</code><name>running</name></instanceState><instanceType>c7i.large</instanceType>\
             <placement><availabilityZone>eu-west-1a</availabilityZone></placement><privateIpAddress>10.0.0.1\
             </privateIpAddress><spotInstanceRequestId>sir-1</spotInstanceRequestId><tagSet><item><key>a</key><value>b\
             </value></item><item><key>empty</key><value/></item></tagSet><blockDeviceMapping><item><deviceName>/dev/x</deviceName><ebs><volumeId>vol-1</volumeId><deleteOnTermination>false</deleteOnTermination></ebs></item><item>\
             <ebs><volumeId>vol-2</volumeId><deleteOnTermination>true</deleteOnTermination></ebs></item></blockDeviceMapping>",
        );
        assert_eq!((found.id.as_str(), found.zone.as_str()), ("i-1", "eu-west-1a"));
        assert_eq!((found.address.as_deref(), found.spot_request.as_deref()), (Some("10.0.0.1"), Some("sir-1")));
        assert_eq!((found.tag("a"), found.tag("empty"), found.tag("c")), (Some("b"), Some(""), None));
        assert_eq!(found.lasting, ["/dev/x"]);
    }

    #[test]
    fn a_start_waits_for_what_is_pending_and_fails_with_what_ends() {
        assert_eq!(in_state("pending", "").coming(), Coming::NotYet);
        assert_eq!(in_state("running", "").coming(), Coming::Up);
        let failed = |code| match in_state("terminated", code).coming() {
            Coming::Failed(cause) => cause,
            other => panic!("{other:?}"),
        };
        assert_eq!(failed("Server.InsufficientInstanceCapacity"), FailureCause::Capacity);
        assert_eq!(failed("Client.VolumeLimitExceeded"), FailureCause::Quota);
        assert_eq!(failed("Server.InternalError"), FailureCause::Infrastructure);
        assert_eq!(in_state("stopping", "").coming(), Coming::Failed(FailureCause::Infrastructure));
    }

    #[test]
    fn w10_what_is_not_pending_or_running_is_bad_and_says_why() {
        assert_eq!(in_state("pending", "").health(), Health::Good);
        assert_eq!(in_state("running", "").health(), Health::Good);
        let told = in_state("terminated", "Client.InstanceInitiatedShutdown").health();
        let words = "machine i-1 is terminated: Client.InstanceInitiatedShutdown: words (it has shut itself down: look at its \
                     console)";
        assert_eq!(told, Health::bad(words));
        for state in ["shutting-down", "stopping", "stopped", "terminated"] {
            assert_ne!(in_state(state, "x").health(), Health::Good, "{state}");
        }
    }

    fn status(xml: &str) -> Health {
        let answer = format!(
            "<DescribeInstanceStatusResponse><instanceStatusSet><item><instanceId>i-1</instanceId>{xml}</item>\
             </instanceStatusSet></DescribeInstanceStatusResponse>"
        );
        Status::all_of(&Element::parse(&answer).unwrap()).next().unwrap().health()
    }

    #[test]
    fn failed_checks_of_the_provider_are_bad_and_those_that_go_on_are_not() {
        let both = |system: &str, instance: &str| {
            status(&format!(
                "<systemStatus><status>{system}</status></systemStatus><instanceStatus><status>{instance}</status>\
                 </instanceStatus>"
            ))
        };
        for well in ["ok", "initializing", "insufficient-data", "not-applicable"] {
            assert_eq!(both(well, well), Health::Good, "{well}");
        }
        assert_ne!(both("impaired", "ok"), Health::Good);
        assert_ne!(both("ok", "impaired"), Health::Good);
    }

    #[test]
    fn a_planned_retirement_is_bad_until_it_is_called_off() {
        let planned = |code: &str, description: &str| {
            status(&format!(
                "<eventsSet><item><code>{code}</code><description>{description}</description><notBefore>2026-12-01T00:00:00Z\
                 </notBefore></item></eventsSet>"
            ))
        };
        let Health::Bad(told) = planned("instance-retirement", "The hardware is old") else { panic!("it is well") };
        assert!(told.contains("instance-retirement from 2026-12-01T00:00:00Z on: The hardware is old"), "{told}");
        assert_eq!(planned("instance-retirement", "[Completed] x"), Health::Good);
        assert_eq!(planned("instance-stop", "[Canceled] x"), Health::Good);
        assert_eq!(planned("system-maintenance", "x"), Health::Good);
    }

    #[test]
    fn the_notice_of_an_interruption_is_bad() {
        let request = |code: &str| {
            let answer = format!(
                "<R><spotInstanceRequestSet><item><spotInstanceRequestId>sir-1</spotInstanceRequestId><status><code>{code}\
                 </code><message>words</message></status></item></spotInstanceRequestSet></R>"
            );
            SpotRequest::all_of(&Element::parse(&answer).unwrap()).next().unwrap().health()
        };
        for well in ["fulfilled", "request-canceled-and-instance-running", "pending-evaluation"] {
            assert_eq!(request(well), Health::Good, "{well}");
        }
        for bad in ["marked-for-termination", "marked-for-stop", "instance-terminated-no-capacity"] {
            assert_ne!(request(bad), Health::Good, "{bad}");
        }
    }
}
