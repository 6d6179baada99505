//! What the proto file demands of objects, held against them after every transaction.

use std::collections::BTreeMap;

use ipnet::IpNet;
use seine_datapath_api::v1;
use tonic::Status;

/// Objects by kind and name.
pub type Objects = BTreeMap<(i32, String), v1::Object>;

pub fn key(object: &v1::Object) -> (i32, String) {
    use v1::object_id::Kind;
    match object.kind.as_ref().unwrap() {
        v1::object::Kind::Node(node) => (Kind::Node as i32, node.name.clone()),
        v1::object::Kind::Peer(peer) => (Kind::Peer as i32, peer.name.clone()),
        v1::object::Kind::Endpoint(endpoint) => (Kind::Endpoint as i32, endpoint.name.clone()),
        v1::object::Kind::Group(group) => (Kind::Group as i32, group.name.clone()),
        v1::object::Kind::Rule(rule) => (Kind::Rule as i32, rule.name.clone()),
        v1::object::Kind::Service(service) => (Kind::Service as i32, service.name.clone()),
    }
}

pub fn check_objects(objects: &Objects) -> Result<(), Status> {
    let invalid = |reason: String| Err(Status::invalid_argument(reason));
    let mut ranges: Vec<IpNet> = Vec::new();
    let mut nodes = 0;
    for object in objects.values() {
        if let Some(v1::object::Kind::Node(node)) = &object.kind {
            nodes += 1;
            ranges = node.pod_cidrs.iter().map(|range| range.parse().unwrap()).collect();
        }
    }
    if nodes != 1 {
        return invalid(format!("{nodes} nodes"));
    }
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for object in objects.values() {
        let Some(v1::object::Kind::Endpoint(endpoint)) = &object.kind else { continue };
        if endpoint.mac.len() != 6 || endpoint.mac[0] & 1 != 0 {
            return invalid(format!("{}: mac {:?}", endpoint.name, endpoint.mac));
        }
        for address in &endpoint.addresses {
            let parsed: std::net::IpAddr = address.parse().unwrap();
            if !ranges.iter().any(|range: &IpNet| range.contains(&parsed)) {
                return invalid(format!("{}: {address} is not of this node", endpoint.name));
            }
            if let Some(other) = owners.insert(address, &endpoint.name) {
                return invalid(format!("{address}: {other} and {}", endpoint.name));
            }
        }
    }
    Ok(())
}

pub fn change_members(objects: &mut Objects, delta: &v1::GroupDelta) -> Result<(), Status> {
    let key = (v1::object_id::Kind::Group as i32, delta.name.clone());
    let Some(v1::Object { kind: Some(v1::object::Kind::Group(group)) }) = objects.get_mut(&key)
    else {
        let reason = format!("group `{}` is refused: name: there is none", delta.name);
        return Err(Status::invalid_argument(reason));
    };
    group.members.retain(|member| !delta.removed.contains(member));
    group.members.extend(delta.added.iter().cloned());
    group.members.sort_unstable();
    group.members.dedup();
    Ok(())
}

/// Rules name only what is there.
pub fn check_names(objects: &Objects) -> Result<(), Status> {
    use v1::object_id::Kind;
    for object in objects.values() {
        let Some(v1::object::Kind::Rule(rule)) = &object.kind else { continue };
        let groups = rule.applied_to_groups.iter().chain(&rule.peer_groups);
        let services = rule.applied_to_services.iter().chain(&rule.peer_services);
        let named = groups.map(|name| (Kind::Group, name));
        for (kind, name) in named.chain(services.map(|name| (Kind::Service, name))) {
            if !objects.contains_key(&(kind as i32, name.clone())) {
                let reason = format!("rule `{}` is refused: no {name}", rule.name);
                return Err(Status::invalid_argument(reason));
            }
        }
    }
    Ok(())
}
