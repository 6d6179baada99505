//! Routes, rules and neighbours by which the node's kernel reaches Pods and Services.
//!
//! Two legs lead into the Pod network. What the node forwards for others takes `seine-gw0`, by the
//! main table. What its own processes send takes `seine-host0`, by a table of its own that a rule
//! `iif lo` asks before the main one: the kernel takes that name for packets that are born on the
//! node, and no packet that came in from anywhere can have it. Answers come back by `seine-gw0`;
//! reverse-path checks look a source up as if the node itself were to answer, so both legs are set
//! to "loose".

use std::net::IpAddr;

use ipnet::IpNet;
use seine_datapath_api::v1::node::EncapMode;
use tracing::{info, warn};

use super::services::{VIRTUAL_LINK_LOCAL, virtual_node_port, virtual_service};
use super::{HostNetworkError, HostPlan, ROUTE_PROTOCOL};
use crate::model::Mac;
use crate::netlink::{Netlink, OriginRule, Route, StaticNeighbor, TABLE_MAIN};

/// The table for what the node itself sends. Free in iproute2's rt_tables.
pub const HOST_TABLE: u8 = 83;

/// The priority of the rule that leads to it: behind the kernel's own "local" (0) and what network
/// plugins put first, far before "main" (32766).
pub const HOST_RULE_PRIORITY: u32 = 830;

/// A way into the Pod network.
#[derive(Clone, Copy)]
struct Leg {
    interface: u32,
    table: u8,
}

/// Brings routes, rules and neighbours in line with the plan.
pub(super) fn reconcile(plan: &HostPlan) -> Result<(), HostNetworkError> {
    let mut netlink = Netlink::open()?;
    let mut index = |name: &str| {
        let missing = || HostNetworkError::NoInterface(name.to_owned());
        netlink.link(name)?.map(|link| link.index).ok_or_else(missing)
    };
    let mut legs = vec![Leg { interface: index(&plan.gateway)?, table: TABLE_MAIN }];
    if let Some(host) = &plan.host {
        legs.push(Leg { interface: index(host)?, table: HOST_TABLE });
    }
    neighbors(&mut netlink, plan, &legs)?;
    let wanted: Vec<Route> = legs.iter().flat_map(|leg| leg_routes(plan, *leg)).collect();
    routes(&mut netlink, &wanted)?;
    rules(&mut netlink, plan)
}

/// Takes away what [`reconcile`] made.
pub(super) fn remove() -> Result<(), HostNetworkError> {
    let mut netlink = Netlink::open()?;
    for rule in netlink.origin_rules()?.into_iter().filter(|it| it.protocol == ROUTE_PROTOCOL) {
        netlink.delete_origin_rule(rule)?;
    }
    for neighbor in netlink.static_neighbors()?.into_iter().filter(is_ours) {
        netlink.delete_neighbor(neighbor)?;
    }
    routes(&mut netlink, &[])
}

fn leg_routes(plan: &HostPlan, leg: Leg) -> Vec<Route> {
    let plain = |destination: IpNet| Route {
        destination,
        gateway: None,
        interface: leg.interface,
        source: plan.gateway_address(destination.addr()),
        on_link: false,
        protocol: ROUTE_PROTOCOL,
        table: leg.table,
    };
    let through = |destination: IpNet, gateway: IpAddr| {
        let to_host_v6 = leg.table == HOST_TABLE && gateway.is_ipv6();
        Route {
            gateway: Some(if to_host_v6 { VIRTUAL_LINK_LOCAL.into() } else { gateway }),
            // Next hops are in a peer's range, or virtual: never in one of ours.
            on_link: !to_host_v6,
            ..plain(destination)
        }
    };
    let mut routes = Vec::new();
    if leg.table == HOST_TABLE {
        // The main table has them by the addresses of the gateway.
        routes.extend(plan.own_ranges.iter().map(|range| plain(*range)));
    }
    match plan.encap_mode {
        EncapMode::Encap => {
            routes.extend(plan.routes.iter().map(|route| through(route.range, route.gateway)));
        }
        // The node's kernel finds the peer by its own table, and speaks with its own address.
        EncapMode::NoEncap if leg.table == TABLE_MAIN => {
            routes.extend(plan.routes.iter().map(|route| Route {
                gateway: Some(route.gateway),
                interface: 0,
                source: None,
                ..plain(route.range)
            }));
        }
        EncapMode::NoEncap => {}
    }
    if plan.services.is_empty() && plan.held.is_empty() {
        return routes;
    }
    for v6 in [false, true] {
        let next_hop = virtual_service(v6);
        if plan.gateway_address(next_hop).is_none() {
            continue;
        }
        routes.push(plain(IpNet::from(next_hop)));
        routes.push(through(IpNet::from(virtual_node_port(v6)), next_hop));
        let destinations = plan.services.destinations.iter().chain(&plan.held);
        let of_family = destinations.filter(|range| range.addr().is_ipv6() == v6);
        routes.extend(of_family.map(|range| through(*range, next_hop)));
    }
    routes
}

fn routes(netlink: &mut Netlink, wanted: &[Route]) -> Result<(), HostNetworkError> {
    let mut present = netlink.routes_in(TABLE_MAIN)?;
    present.extend(netlink.routes_in(HOST_TABLE)?);
    // Stale ones first: a range may have moved from one peer to another.
    for route in present.iter().filter(|route| route.protocol == ROUTE_PROTOCOL) {
        if !wanted.iter().any(|other| same(other, route)) {
            info!(destination = %route.destination, table = route.table, "removing a stale route");
            netlink.delete_route(route)?;
        }
    }
    for route in wanted {
        if present.iter().any(|other| same(route, other)) {
            continue;
        }
        let taken = present.iter().find(|other| {
            (other.destination, other.table) == (route.destination, route.table)
                && other.protocol != ROUTE_PROTOCOL
        });
        if let Some(other) = taken {
            warn!(destination = %route.destination, protocol = other.protocol,
                "replacing a route that somebody else has made to Pods or Services");
        }
        info!(destination = %route.destination, table = route.table, "adding a route");
        netlink.replace_route(route)?;
    }
    Ok(())
}

/// Whether a route that is there is the one that is wanted; the kernel shows `onlink` of IPv6
/// routes otherwise than it takes it, and fills in an interface that is left to it.
fn same(wanted: &Route, present: &Route) -> bool {
    let identity = |it: &Route| (it.destination, it.gateway, it.source, it.protocol, it.table);
    identity(wanted) == identity(present)
        && (wanted.interface == 0 || wanted.interface == present.interface)
}

fn rules(netlink: &mut Netlink, plan: &HostPlan) -> Result<(), HostNetworkError> {
    let families = plan.own_ranges.iter().map(|range| range.addr().is_ipv6());
    let wanted: Vec<OriginRule> = families
        .filter(|_| plan.host.is_some())
        .map(|v6| OriginRule {
            v6,
            priority: HOST_RULE_PRIORITY,
            table: HOST_TABLE,
            protocol: ROUTE_PROTOCOL,
        })
        .collect();
    let present = netlink.origin_rules()?;
    for rule in present.iter().filter(|rule| rule.protocol == ROUTE_PROTOCOL) {
        if !wanted.contains(rule) {
            netlink.delete_origin_rule(*rule)?;
        }
    }
    for rule in wanted.into_iter().filter(|rule| !present.contains(rule)) {
        info!(priority = rule.priority, "adding the rule for what the node itself sends");
        netlink.add_origin_rule(rule)?;
    }
    Ok(())
}

/// The virtual next hops.
fn next_hops() -> [IpAddr; 3] {
    [virtual_service(false), virtual_service(true), VIRTUAL_LINK_LOCAL.into()]
}

/// Who the virtual next hops are, on each leg.
fn neighbors(netlink: &mut Netlink, plan: &HostPlan, legs: &[Leg]) -> Result<(), HostNetworkError> {
    let next_hops = next_hops();
    let next_hops = next_hops.iter().filter(|address| plan.gateway_address(**address).is_some());
    let wanted: Vec<StaticNeighbor> = next_hops
        .flat_map(|address| {
            legs.iter().map(|leg| StaticNeighbor {
                interface: leg.interface,
                address: *address,
                mac: Mac::VIRTUAL,
            })
        })
        .collect();
    let present = netlink.static_neighbors()?;
    for neighbor in wanted.into_iter().filter(|neighbor| !present.contains(neighbor)) {
        netlink.replace_neighbor(neighbor)?;
    }
    Ok(())
}

fn is_ours(neighbor: &StaticNeighbor) -> bool {
    next_hops().contains(&neighbor.address) && neighbor.mac == Mac::VIRTUAL
}
