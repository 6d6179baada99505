//! A Pod that an operator lets send beyond its own addresses.

use seine_pipeline::address::Mac;
use seine_pipeline::state::{AllowedAddress, Endpoint};
use seine_pipeline::testbed::endpoint;

/// Addresses of neither family that are no Pod's: outside of the cluster, and in allowed ranges.
pub const FOREIGN: [[&str; 3]; 2] =
    [["203.0.113.80", "10.99.0.5", "10.99.0.200"], ["2001:db8::80", "fd00:99::5", "fd00:99::200"]];

/// The first Pod as a trusted router, or with allowed addresses: some from its own MAC address,
/// some from one that differs in its last bit.
pub fn permitted(pod: &str, router: bool) -> Endpoint {
    let mut own = endpoint(0, pod);
    let Mac([a, b, c, d, e, last]) = own.mac;
    let other = Some(Mac([a, b, c, d, e, last ^ 1]));
    let allowed = [("10.99.0.0/25", None), ("10.99.0.128/25", other), ("fd00:99::/64", None)];
    own.permit.trusted_router = router;
    if !router {
        own.permit.allowed_addresses = allowed
            .map(|(range, mac)| AllowedAddress { range: range.parse().unwrap(), mac })
            .to_vec();
    }
    own
}
