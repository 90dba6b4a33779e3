//! Networks, as far as the way from a container to its host goes.

use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;

use super::http::{Request, percent_encoded};
use super::{Engine, EngineError, Patience, null_is_default};

/// What an engine answers; what it leaves out is empty.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    #[serde(default, deserialize_with = "null_is_default")]
    driver: String,
    #[serde(default, rename = "IPAM", deserialize_with = "null_is_default")]
    ipam: Ipam,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    #[serde(default, deserialize_with = "null_is_default")]
    config: Vec<Pool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pool {
    #[serde(default, deserialize_with = "null_is_default")]
    subnet: String,
    #[serde(default, deserialize_with = "null_is_default")]
    gateway: String,
}

impl Pool {
    /// Docker (20.10) does not name the gateway of its default network as long as nothing has used that; it is the first
    /// address of the subnet, unless the engine was told otherwise: then it is named.
    fn gateway(&self) -> Option<IpAddr> {
        self.gateway.parse().ok().or_else(|| {
            let (network, _) = self.subnet.split_once('/')?;
            let network: Ipv4Addr = network.parse().ok()?;
            Some(Ipv4Addr::from(u32::from(network).checked_add(1)?).into())
        })
    }
}

impl Network {
    /// That of other drivers than `bridge` is not the engine's machine (macvlan, overlay).
    fn gateway(&self) -> Option<IpAddr> {
        if self.driver != "bridge" {
            return None;
        }
        let gateways = || self.ipam.config.iter().filter_map(Pool::gateway);
        gateways().find(IpAddr::is_ipv4).or_else(|| gateways().next())
    }
}

impl Engine {
    /// The address under which containers of a network see the engine's machine; none when there is no such network, or
    /// it leads nowhere.
    pub(crate) fn gateway(&self, network: &str, patience: Patience<'_>) -> Result<Option<IpAddr>, EngineError> {
        let doing = format!("inspect network {network}");
        let path = format!("/networks/{}", percent_encoded(network, ""));
        match self.call(Request::get(path, doing), patience) {
            Ok(answer) => Ok(answer.json::<Network>()?.gateway()),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(config: &str) -> Option<String> {
        gateway_of("bridge", config)
    }

    fn gateway_of(driver: &str, config: &str) -> Option<String> {
        let said = format!(r#"{{"Name":"n","Driver":"{driver}","IPAM":{{"Config":{config}}}}}"#);
        serde_json::from_str::<Network>(&said).unwrap().gateway().map(|address| address.to_string())
    }

    #[test]
    fn a_gateway_is_named_or_the_first_address() {
        assert_eq!(gateway(r#"[{"Subnet":"10.88.0.0/16","Gateway":"10.88.0.9"}]"#).unwrap(), "10.88.0.9");
        assert_eq!(gateway(r#"[{"Subnet":"172.17.0.0/16"}]"#).unwrap(), "172.17.0.1");
        let both = r#"[{"Subnet":"fd00::/64","Gateway":"fd00::1"},{"Subnet":"10.0.0.0/8","Gateway":null}]"#;
        assert_eq!(gateway(both).unwrap(), "10.0.0.1");
        assert_eq!(gateway(r#"[{"Subnet":"fd00::/64","Gateway":"fd00::1"}]"#).unwrap(), "fd00::1");
        assert_eq!(gateway("null"), None);
        assert_eq!(gateway("[{}]"), None);
        for driver in ["macvlan", "ipvlan", "overlay", ""] {
            assert_eq!(gateway_of(driver, r#"[{"Subnet":"172.17.0.0/16"}]"#), None, "{driver}");
        }
    }
}
