//! Tiers, and upstream's ClusterNetworkPolicy as far as it stands in the way of one.

use super::{Existing, Features};
use crate::model::STATIC_TIERS;
use crate::watch::api::{Resource, antrea};
use crate::watch::object::Wrong;

/// Antrea's limit, its own six included.
const TIERS_MAX: usize = 20;
/// 251: AdminNetworkPolicy, 254: both baselines, 252 and 255: kept for what may come.
const RESERVED: [i64; 4] = [251, 252, 254, 255];
/// Where upstream's ClusterNetworkPolicy has its tier `Admin`.
const CLUSTER_NETWORK_POLICY: i64 = 220;
/// Who may change the priority of a tier: it does so when it is upgraded.
const CONTROLLER: &str = "system:serviceaccount:kube-system:antrea-controller";

type Tier = Resource<antrea::TierSpec>;

/// Whether a new tier may be.
pub(super) fn create(tier: &Tier, existing: &Existing, features: Features) -> Result<(), Wrong> {
    admit(tier.name(), i64::from(tier.spec.priority), existing, features)
}

/// The same, of a tier that may come from elsewhere.
pub(super) fn admit(
    name: &str,
    priority: i64,
    existing: &Existing,
    features: Features,
) -> Result<(), Wrong> {
    let wrong = |reason: String| Err(Wrong::new("spec.priority", reason));
    if existing.tier_count() >= TIERS_MAX {
        let reason = format!("maximum number of Tiers supported: {TIERS_MAX}");
        return Err(Wrong::new(".", reason));
    }
    if RESERVED.contains(&priority) {
        return wrong(format!("tier {name} priority {priority} is reserved"));
    }
    if features.cluster_network_policy && priority == CLUSTER_NETWORK_POLICY {
        return wrong(format!(
            "tier {name} priority {priority} is reserved for upstream ClusterNetworkPolicy when \
             the ClusterNetworkPolicy feature gate is enabled; choose a different priority"
        ));
    }
    if existing.has_tier_at(priority, name) {
        return wrong(format!("tier {name} priority {priority} overlaps with existing Tier"));
    }
    Ok(())
}

/// Whether a tier may change: its policies would all move at once.
pub(super) fn update(tier: &Tier, old: &Tier, user: &str) -> Result<(), Wrong> {
    if user != CONTROLLER && tier.spec.priority != old.spec.priority {
        return Err(Wrong::new("spec.priority", "update to Tier priority is not allowed"));
    }
    Ok(())
}

/// Whether a tier may go: nobody's policies may lose their place.
pub(super) fn delete(old: &Tier, existing: &Existing) -> Result<(), Wrong> {
    let name = old.name();
    if STATIC_TIERS.iter().any(|(known, _)| *known == name) {
        return Err(Wrong::new(".", format!("cannot delete reserved tier {name}")));
    }
    existing.check_tier_unused(name)
}

/// Whether upstream's ClusterNetworkPolicy may be.
pub(super) fn cluster_network_policy(
    is_new: bool,
    existing: &Existing,
    features: Features,
) -> Result<(), Wrong> {
    if !features.cluster_network_policy {
        let reason = "ClusterNetworkPolicy is not supported: the ClusterNetworkPolicy feature gate \
                      is not enabled";
        return Err(Wrong::new(".", reason));
    }
    if is_new && existing.has_tier_at(CLUSTER_NETWORK_POLICY, "") {
        let reason = format!(
            "ClusterNetworkPolicy creation is blocked: a user-created Tier at priority \
             {CLUSTER_NETWORK_POLICY} (cnpAdminTierPriority) already exists; the Tier and its \
             associated policies must be deleted/migrated first before a ClusterNetworkPolicy can \
             be created"
        );
        return Err(Wrong::new(".", reason));
    }
    Ok(())
}
