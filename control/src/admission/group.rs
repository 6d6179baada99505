//! Groups and ClusterGroups, each by itself.

use super::policy::{check_ip_block, check_labels, is_multicast};
use crate::watch::api::antrea;
use crate::watch::object::Wrong;

/// Which of the two a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Group,
    ClusterGroup,
}

/// Whether what a group is made of can be: one thing, or Pods of some namespaces.
pub(crate) fn validate(spec: &antrea::GroupSpec, kind: Kind) -> Result<(), Wrong> {
    let set = [
        spec.pod_selector.is_some(),
        spec.namespace_selector.is_some(),
        spec.external_entity_selector.is_some(),
        spec.node_selector.is_some(),
        !spec.ip_blocks.is_empty(),
        spec.service_reference.is_some(),
        !spec.child_groups.is_empty(),
    ];
    let count = set.iter().filter(|is_set| **is_set).count();
    let is_pair = spec.namespace_selector.is_some()
        && (spec.pod_selector.is_some() || spec.external_entity_selector.is_some());
    if count > 2 || count == 2 && !is_pair {
        let reason = match kind {
            Kind::ClusterGroup => {
                "At most one of podSelector, nodeSelector, externalEntitySelector, \
                 serviceReference, ipBlock, ipBlocks or childGroups can be set for a ClusterGroup"
            }
            Kind::Group => {
                "At most one of podSelector, externalEntitySelector, serviceReference, ipBlocks \
                 or childGroups can be set for a Group"
            }
        };
        return Err(Wrong::new(".", reason));
    }
    check_labels([
        ("podSelector", &spec.pod_selector),
        ("namespaceSelector", &spec.namespace_selector),
        ("externalEntitySelector", &spec.external_entity_selector),
    ])?;
    for (index, block) in spec.ip_blocks.iter().enumerate() {
        check_ip_block(block).map_err(|wrong| wrong.within(&format!("ipBlocks[{index}]")))?;
    }
    let multicast = spec.ip_blocks.iter().filter(|block| is_multicast(block)).count();
    if multicast > 0 && multicast < spec.ip_blocks.len() {
        let reason = "can not set multicast groupAddress together with unicast ip address";
        return Err(Wrong::new("ipBlocks", reason));
    }
    Ok(())
}
