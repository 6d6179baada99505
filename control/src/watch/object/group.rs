//! Antrea's Tier, ClusterGroup and Group.

use super::antrea::{named, pods_within};
use super::{Wrong, each, selector, traffic};
use crate::admission::{self, GroupKind};
use crate::model::{Group, GroupName, Tier};
use crate::watch::api::{Resource, antrea};

/// Makes a tier of the model.
pub(super) fn tier(tier: Resource<antrea::TierSpec>) -> Result<Tier, Wrong> {
    let name = selector::name_of(&tier.metadata)?;
    match u8::try_from(tier.spec.priority) {
        Ok(priority) => Ok(Tier { name, priority: u32::from(priority) }),
        Err(_) => Err(Wrong::new("spec.priority", "is not between 0 and 255")),
    }
}

/// Makes a group of the model.
pub(super) fn group(group: Resource<antrea::GroupSpec>, kind: GroupKind) -> Result<Group, Wrong> {
    let name = selector::name_of(&group.metadata)?;
    let namespace = match kind {
        GroupKind::ClusterGroup => None,
        GroupKind::Group => Some(selector::namespace_of(&group.metadata)?),
    };
    admission::validate_group(&group.spec, kind)
        .and_then(|()| members(&group.spec, namespace, name))
        .map_err(|wrong| wrong.within("spec"))
}

fn members(
    spec: &antrea::GroupSpec,
    namespace: Option<String>,
    name: String,
) -> Result<Group, Wrong> {
    if spec.external_entity_selector.is_some() {
        let reason = "this version knows no external entities";
        return Err(Wrong::new("externalEntitySelector", reason));
    }
    if spec.node_selector.is_some() && namespace.is_some() {
        return Err(Wrong::new("nodeSelector", "is for a ClusterGroup only"));
    }
    let has_pods = spec.pod_selector.is_some() || spec.namespace_selector.is_some();
    let pods = has_pods
        .then(|| {
            let (pods, namespaces) = (&spec.pod_selector, &spec.namespace_selector);
            pods_within(namespace.as_deref(), pods.as_ref(), namespaces.as_ref())
        })
        .transpose()?;
    let nodes = spec.node_selector.as_ref().map(selector::labels).transpose();
    let service = match (&spec.service_reference, &namespace) {
        (None, _) => None,
        // A Group reaches no farther than its namespace.
        (Some(of), Some(home)) if of.namespace.is_empty() || of.namespace == *home => {
            Some((home.clone(), of.name.clone()))
        }
        (Some(_), Some(_)) => {
            return Err(Wrong::new("serviceReference.namespace", "is another than the Group's"));
        }
        (of, None) => Some(named("serviceReference", of.as_ref())?),
    };
    let group = Group {
        pods,
        nodes: nodes.map_err(|wrong| wrong.within("nodeSelector"))?,
        ip_blocks: each("ipBlocks", &spec.ip_blocks, |block| {
            traffic::ip_block(&block.cidr, &block.except)
        })?,
        service,
        child_groups: each("childGroups", &spec.child_groups, |child| {
            Ok(GroupName { namespace: namespace.clone().unwrap_or_default(), name: child.clone() })
        })?,
        name: GroupName { namespace: namespace.unwrap_or_default(), name },
    };
    let is_empty = group.pods.is_none()
        && group.nodes.is_none()
        && group.service.is_none()
        && group.ip_blocks.is_empty()
        && group.child_groups.is_empty();
    match is_empty {
        true => Err(Wrong::new(".", "says of nothing who is in the group")),
        false => Ok(group),
    }
}
