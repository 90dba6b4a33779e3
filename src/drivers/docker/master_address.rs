//! Where the master is, seen from inside a container.
//!
//! Pure: which network the container is in, and what its gateway is, is told.

use core::net::IpAddr;

/// How the host's loopback is seen from a container of a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Loopback {
    /// It is the container's own, too.
    Shared,
    /// The machine has this address.
    Gateway(IpAddr),
    /// Not at all, or nobody knows.
    Unseen,
}

/// The network whose gateway is to be asked for, if it depends on that.
pub(super) fn network_to_ask(network: &str) -> Option<&str> {
    match network {
        // Both engines know their default network by this name, too.
        "" | "default" | "bridge" => Some("bridge"),
        "host" | "none" => None,
        other => (!other.starts_with("container:") && !other.starts_with("ns:")).then_some(other),
    }
}

/// Whether an address is one that only this machine can use: then it depends on the network where it leads.
pub(super) fn is_of_this_machine(address: &str) -> bool {
    let (host, _) = split(address);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
}

/// The address for the agent: what was chosen for the container; otherwise what the master was told, made one that the
/// container can use. None when nothing is known.
pub(super) fn seen_from_inside(
    chosen: Option<&str>,
    told: Option<&str>,
    loopback: Loopback,
) -> Result<Option<String>, String> {
    let port = told.map_or("", |told| split(told).1);
    if let Some(chosen) = chosen {
        let (host, own_port) = split(chosen);
        return match (own_port, port) {
            ("", "") => Err(format!("{chosen:?} has no port, and the master was not told its own: write host:port")),
            ("", port) => Ok(Some(join(host, port))),
            _ => Ok(Some(chosen.to_owned())),
        };
    }
    let Some(told) = told else { return Ok(None) };
    if !is_of_this_machine(told) {
        return Ok(Some(told.to_owned()));
    }
    match loopback {
        Loopback::Gateway(gateway) => Ok(Some(join(&gateway.to_string(), port))),
        Loopback::Shared => {
            let unspecified = split(told).0.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
            Ok(Some(if unspecified { join("127.0.0.1", port) } else { told.to_owned() }))
        }
        Loopback::Unseen => Err(format!(
            "the container's network does not lead to {told}, where the master listens: say with master_address where it is \
             seen from there"
        )),
    }
}

/// The host and the port, which may be missing.
pub(super) fn split(address: &str) -> (&str, &str) {
    if let Some((host, rest)) = address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, rest.strip_prefix(':').unwrap_or(""));
    }
    match address.rsplit_once(':') {
        // More than one colon, and no brackets: an IPv6 address alone.
        Some((host, port)) if !host.contains(':') => (host, port),
        _ => (address, ""),
    }
}

fn join(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Loopback = Loopback::Gateway(IpAddr::V4(core::net::Ipv4Addr::new(172, 17, 0, 1)));

    #[test]
    fn an_address_of_this_machine_is_seen_through_the_gateway() {
        let seen = |told| seen_from_inside(None, Some(told), GATEWAY).unwrap().unwrap();
        for told in ["127.0.0.1:9989", "0.0.0.0:9989", "[::]:9989", "[::1]:9989", "localhost:9989"] {
            assert_eq!(seen(told), "172.17.0.1:9989", "{told}");
        }
        for told in ["10.1.2.3:9989", "ci.example.org:9989", "[fd00::1]:9989"] {
            assert_eq!(seen(told), told);
        }
        assert_eq!(seen_from_inside(None, None, GATEWAY), Ok(None));
    }

    #[test]
    fn the_network_of_the_host_is_this_machine() {
        let seen = |told| seen_from_inside(None, Some(told), Loopback::Shared).unwrap().unwrap();
        assert_eq!(seen("127.0.0.1:1"), "127.0.0.1:1");
        assert_eq!(seen("0.0.0.0:1"), "127.0.0.1:1");
        assert_eq!(seen("10.1.2.3:1"), "10.1.2.3:1");
    }

    #[test]
    fn what_was_chosen_wins_and_may_lack_the_port() {
        let seen = |chosen, told| seen_from_inside(Some(chosen), told, Loopback::Unseen);
        assert_eq!(seen("host:1", Some("127.0.0.1:2")), Ok(Some("host:1".into())));
        assert_eq!(seen("host", Some("127.0.0.1:2")), Ok(Some("host:2".into())));
        assert_eq!(seen("fd00::1", Some("[::]:2")), Ok(Some("[fd00::1]:2".into())));
        assert!(seen("host", None).unwrap_err().contains("no port"));
    }

    #[test]
    fn a_network_that_leads_nowhere_is_told() {
        assert!(seen_from_inside(None, Some("127.0.0.1:1"), Loopback::Unseen).unwrap_err().contains("master_address"));
        assert_eq!(seen_from_inside(None, Some("10.0.0.1:1"), Loopback::Unseen), Ok(Some("10.0.0.1:1".into())));
    }

    #[test]
    fn only_networks_of_their_own_are_asked_for() {
        for network in ["", "default", "bridge"] {
            assert_eq!(network_to_ask(network), Some("bridge"));
        }
        assert_eq!(network_to_ask("of-mine"), Some("of-mine"));
        for network in ["host", "none", "container:db", "ns:/proc/1/ns/net"] {
            assert_eq!(network_to_ask(network), None, "{network}");
        }
    }
}
