//! What a configuration says, and which ones are refused.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use std::io::Write;

use super::*;

fn load(text: &str) -> Result<Configuration, ConfigurationError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Configuration::load(Some(file.path()))
}

#[test]
fn the_printed_defaults_are_the_defaults_and_name_every_key() {
    assert_eq!(toml::from_str::<Configuration>(DEFAULT_TOML).unwrap(), Configuration::default());
    let keys = |text: &str| {
        let table: toml::Table = toml::from_str(text).unwrap();
        table.keys().cloned().collect::<Vec<_>>()
    };
    let all = toml::to_string(&Configuration::default()).unwrap();
    assert_eq!(keys(DEFAULT_TOML), keys(&all));
}

#[test]
fn an_unknown_key_is_named() {
    let error = load("node_nmae = \"a\"").unwrap_err().to_string();
    assert!(error.contains("node_nmae"), "{error}");
}

#[test]
fn what_antrea_has_and_we_have_not_is_not_yet_there() {
    let error = load("trafficEncapMode = \"hybrid\"").unwrap_err();
    assert!(matches!(error, ConfigurationError::NotYet { .. }), "{error}");
    let error = load("tunnelType = \"carrier-pigeon\"").unwrap_err();
    assert!(matches!(error, ConfigurationError::Value { .. }), "{error}");
}

#[test]
fn existing_connections_are_kept_or_judged_again_and_nothing_else() {
    use v1::node::ExistingConnections::{Keep, Reevaluate};
    assert_eq!(load("").unwrap().existing_connections(), Keep);
    let judged = load("existingConnections = \"reevaluate\"").unwrap();
    assert_eq!(judged.existing_connections(), Reevaluate);
    let error = load("existingConnections = \"drop\"").unwrap_err().to_string();
    let expected = ["existingConnections", "drop", "keep", "reevaluate"];
    assert!(expected.iter().all(|word| error.contains(word)), "{error}");
}

#[test]
fn modes_and_service_ranges_are_read_as_they_are_written() {
    let plain = load("trafficEncapMode = \"noEncap\"\ntunnelType = \"vxlan\"").unwrap();
    assert_eq!(plain.encap_mode(), v1::node::EncapMode::NoEncap);
    assert_eq!(plain.tunnel_type(), v1::node::TunnelType::Vxlan);
    let text = "serviceCIDR = \"\"\nserviceCIDRv6 = \"fd00:96::1/108\"";
    let ranges = load(text).unwrap().service_ranges();
    assert_eq!(ranges, ["fd00:96::/108".parse().unwrap()]);
    let error = load("serviceCIDR = \"fd00:96::/108\"").unwrap_err();
    assert!(error.to_string().contains("no range of IPv4"), "{error}");
}

#[test]
fn ranges_of_node_port_addresses_are_ranges() {
    let text = "[antreaProxy]\nnodePortAddresses = [\"192.0.2.0/24\", \"2001:db8::/32\"]";
    assert_eq!(load(text).unwrap().antrea_proxy.node_port_addresses.len(), 2);
    let error = load("[antreaProxy]\nnodePortAddresses = [\"eth0\"]").unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
}

#[test]
fn a_node_without_a_name_takes_the_hosts() {
    assert!(!load("").unwrap().node_name.is_empty());
    assert_eq!(load("node_name = \"n1\"").unwrap().node_name, "n1");
}
