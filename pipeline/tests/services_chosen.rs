//! Who is sent where by which Service: the pipeline against a chooser that reads the objects.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use proptest::sample::Index;
use seine_pipeline::state::{Change, Kind, Object, ObjectId, Service, ServiceEndpoint};
use seine_pipeline::testbed::{Fate, Node, tcp, udp};

const PODS: [&str; 3] = ["a", "b", "c"];
const ENDPOINTS: [&str; 5] = ["a", "b", "c", "remote", "outside"];
const UDP: u8 = 17;

/// A Service to be, by what tells it from others.
#[derive(Clone, Debug)]
struct Shape {
    /// Bits: UDP, external address, node port, internal Local, external Local.
    flags: u8,
    affinity_seconds: u32,
    /// Who is an endpoint, and which of the two lists it is in.
    endpoints: Vec<(usize, bool, bool)>,
}

fn shape() -> impl Strategy<Value = Shape> {
    let endpoint = (0..ENDPOINTS.len(), any::<bool>(), any::<bool>());
    let affinity = prop_oneof![Just(0), 1..3u32, Just(86_400)];
    (0..32u8, affinity, prop::collection::vec(endpoint, 0..6)).prop_map(
        |(flags, affinity_seconds, endpoints)| Shape { flags, affinity_seconds, endpoints },
    )
}

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    Wait(u64),
    Install(usize, Shape),
    Delete(usize),
    Send { from: Index, to: usize, way: Index, wrong_port: bool, v6: bool },
}

fn event() -> impl Strategy<Value = Event> {
    let send = (any::<Index>(), 0..2usize, any::<Index>(), any::<bool>(), any::<bool>());
    prop_oneof![
        4 => (0..2000u64).prop_map(Event::Wait),
        2 => (0..2usize, shape()).prop_map(|(number, shape)| Event::Install(number, shape)),
        1 => (0..2usize).prop_map(Event::Delete),
        20 => send.prop_map(|(from, to, way, wrong_port, v6)| {
            Event::Send { from, to, way, wrong_port: wrong_port && way.index(4) == 0, v6 }
        }),
    ]
}

fn service(node: &Node, number: usize, shape: &Shape) -> Service {
    let flag = |bit: u8| shape.flags >> bit & 1 == 1;
    let endpoint = |(who, cluster, local): &(usize, bool, bool)| {
        let port = 8080 + *who as u16;
        [false, true].map(|v6| {
            let address = node.address(ENDPOINTS[*who], v6);
            ServiceEndpoint { address, port, cluster: *cluster, local: *local && *who < PODS.len() }
        })
    };
    let address = |pattern: [&str; 2], last: usize| {
        pattern.map(|front| format!("{front}{last}").parse().unwrap()).to_vec()
    };
    Service {
        name: format!("default/web{number}:"),
        protocol: if flag(0) { UDP } else { 6 },
        cluster_addresses: address(["10.96.0.1", "fd00:96::1"], number),
        external_addresses: match flag(1) {
            true => address(["203.0.113.8", "2001:db8:8::"], number),
            false => Vec::new(),
        },
        port: 80,
        node_port: if flag(2) { 30000 + number as u16 } else { 0 },
        affinity_seconds: shape.affinity_seconds,
        internal_local: flag(3),
        external_local: flag(4),
        restricted_addresses: Vec::new(),
        source_ranges: Vec::new(),
        endpoints: shape.endpoints.iter().flat_map(endpoint).collect(),
    }
}

/// Who may be chosen, read from the object; and whether the policy Local says so.
fn allowed(
    service: &Service,
    to: SocketAddr,
    from: &str,
    v6: bool,
) -> Option<(BTreeSet<SocketAddr>, bool)> {
    let cluster = service.cluster_addresses.contains(&to.ip()) && to.port() == service.port;
    let external = service.external_addresses.contains(&to.ip()) && to.port() == service.port;
    let nodes = ["192.168.0.1", "2001:db8:100::1", "169.254.0.252", "fc01::aabb:ccdd:eefe"];
    let node = nodes.iter().any(|address| to.ip() == address.parse::<IpAddr>().unwrap());
    let node_port = node && to.port() == service.node_port && service.node_port != 0;
    let local = if cluster {
        service.internal_local
    } else if external || node_port {
        service.external_local && from == "outside"
    } else {
        return None;
    };
    let mine = service.endpoints.iter().filter(|it| it.address.is_ipv6() == v6);
    let chosen = mine.filter(|it| if local { it.local } else { it.cluster });
    Some((chosen.map(|it| SocketAddr::new(it.address, it.port)).collect(), local))
}

struct World {
    node: Node,
    services: [Option<(Service, u32)>; 2],
    /// When a Service was installed for the first time since it was not there.
    born: u32,
    clients: HashMap<(u32, IpAddr, bool), (SocketAddr, u64)>,
    sent: u16,
}

impl World {
    fn new() -> World {
        World {
            node: Node::with_pods(PODS),
            services: [None, None],
            born: 0,
            clients: HashMap::new(),
            sent: 0,
        }
    }

    fn install(&mut self, number: usize, shape: &Shape) {
        let service = service(&self.node, number, shape);
        self.node.apply(&[Change::Upsert(Object::Service(service.clone()))]);
        self.born += 1;
        let born = self.services[number].as_ref().map_or(self.born, |(_, born)| *born);
        self.services[number] = Some((service, born));
    }

    fn delete(&mut self, number: usize) {
        let name = format!("default/web{number}:");
        self.node.apply(&[Change::Delete(ObjectId { kind: Kind::Service, name })]);
        self.services[number] = None;
    }

    fn send(&mut self, from: &str, to: SocketAddr, protocol: u8, v6: bool) -> Option<SocketAddr> {
        self.sent += 1;
        // Long enough for a port to be allowed one more first packet.
        self.node.now_ms += 10;
        let probe = if protocol == UDP { udp() } else { tcp() };
        let (ingress, source) = match from {
            "outside" => ("gateway", "outside"),
            "node" if v6 => ("host", "2001:db8:100::1"),
            "node" => ("host", "192.168.0.1"),
            "gateway" => ("gateway", "gateway"),
            pod => (pod, pod),
        };
        let probe = probe.from(ingress).source(source).to(&to.ip().to_string()).port(to.port());
        let fate = self.node.send(probe.source_port(1024 + self.sent).in_v6(v6));
        let steps = &self.node.trace.steps;
        let step = steps.iter().find(|step| step.table.name() == "EndpointDNAT");
        let chosen = step.and_then(|step| step.matched.strip_prefix("now to "));
        let chosen = chosen.map(|address| address.parse().unwrap());
        let refused = matches!(&fate, Fate::Left(port, _) if port == ingress);
        let found = step.is_some_and(|step| !step.matched.is_empty());
        let expected = self.expect(from, to, protocol, v6);
        match expected {
            Some((allowed, had)) => {
                assert_eq!(chosen.is_none(), allowed.is_empty(), "{fate:?}");
                assert!(chosen.is_some() || refused, "{fate:?}");
                assert!(chosen.is_none_or(|it| allowed.contains(&it)), "{chosen:?} of {allowed:?}");
                assert!(had.is_none_or(|had| chosen == Some(had)), "{chosen:?}, not {had:?}");
                self.learn(from, to, protocol, v6, chosen);
            }
            None => assert!(!found, "{:?}", step.unwrap().matched),
        }
        chosen
    }

    fn served(&self, from: &str, to: SocketAddr, protocol: u8, v6: bool) -> Option<Served<'_>> {
        self.services.iter().flatten().find_map(|(service, born)| {
            if service.protocol != protocol {
                return None;
            }
            let (allowed, local) = allowed(service, to, from, v6)?;
            Some(Served { service, born: *born, allowed, local })
        })
    }

    fn client(&self, from: &str, v6: bool) -> IpAddr {
        let node = if v6 { "2001:db8:100::1" } else { "192.168.0.1" };
        self.node.address(if from == "node" { node } else { from }, v6)
    }

    fn expect(
        &self,
        from: &str,
        to: SocketAddr,
        protocol: u8,
        v6: bool,
    ) -> Option<(BTreeSet<SocketAddr>, Option<SocketAddr>)> {
        let Served { service, born, allowed, local } = self.served(from, to, protocol, v6)?;
        let known = self.clients.get(&(born, self.client(from, v6), local));
        let known = known.filter(|(_, until)| *until > self.node.now_ms);
        let known = known.filter(|(had, _)| allowed.contains(had));
        let had = known.filter(|_| service.affinity_seconds != 0).map(|(had, _)| *had);
        Some((allowed, had))
    }

    fn learn(
        &mut self,
        from: &str,
        to: SocketAddr,
        protocol: u8,
        v6: bool,
        chosen: Option<SocketAddr>,
    ) {
        let had = self.expect(from, to, protocol, v6).and_then(|(_, had)| had);
        let (now_ms, client) = (self.node.now_ms, self.client(from, v6));
        let Some(Served { service, born, local, .. }) = self.served(from, to, protocol, v6) else {
            return;
        };
        let until = now_ms + u64::from(service.affinity_seconds) * 1000;
        if let Some(chosen) = chosen
            && had.is_none()
            && service.affinity_seconds != 0
        {
            self.clients.insert((born, client, local), (chosen, until));
        }
    }

    fn place(&self, number: usize, way: Index, from: &str, v6: bool, wrong: bool) -> SocketAddr {
        let parse = |text: String| -> IpAddr { text.parse().unwrap() };
        let node_port = 30000 + number as u16 + if wrong { 7 } else { 0 };
        let port = if wrong { 81 } else { 80 };
        let node = match (from, v6) {
            ("outside" | "gateway" | "node", false) => "169.254.0.252",
            ("outside" | "gateway" | "node", true) => "fc01::aabb:ccdd:eefe",
            (_, false) => "192.168.0.1",
            (_, true) => "2001:db8:100::1",
        };
        let (cluster, external) = match v6 {
            false => (format!("10.96.0.1{number}"), format!("203.0.113.8{number}")),
            true => (format!("fd00:96::1{number}"), format!("2001:db8:8::{number}")),
        };
        match way.index(3) {
            0 => SocketAddr::new(parse(cluster), port),
            1 => SocketAddr::new(parse(external), port),
            _ => SocketAddr::new(parse(node.to_owned()), node_port),
        }
    }
}

struct Served<'a> {
    service: &'a Service,
    born: u32,
    allowed: BTreeSet<SocketAddr>,
    local: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn clients_go_where_the_objects_say_and_stay_as_long_as_they_say(
        events in prop::collection::vec(event(), 1..100),
    ) {
        let mut world = World::new();
        for event in events {
            match event {
                Event::Wait(milliseconds) => world.node.now_ms += milliseconds,
                Event::Install(number, shape) => world.install(number, &shape),
                Event::Delete(number) => world.delete(number),
                Event::Send { from, to, way, wrong_port, v6 } => {
                    let from = *from.get(&["a", "b", "outside", "gateway", "node"]);
                    let place = world.place(to, way, from, v6, wrong_port);
                    for protocol in [6, UDP] {
                        world.send(from, place, protocol, v6);
                    }
                }
            }
        }
    }
}

#[test]
fn clients_are_spread_evenly_and_stay_when_another_endpoint_goes() {
    let spread = |count: usize| -> Vec<SocketAddr> {
        let mut world = World::new();
        let endpoints = (0..count).map(|who| (who, true, false)).collect();
        world.install(0, &Shape { flags: 1, affinity_seconds: 0, endpoints });
        let to = "10.96.0.10:80".parse().unwrap();
        (0..2000).map(|_| world.send("a", to, UDP, false).unwrap()).collect()
    };
    let (five, four) = (spread(5), spread(4));
    for who in 0..5 {
        let share = five.iter().filter(|it| it.port() == 8080 + who).count();
        assert!((300..500).contains(&share), "endpoint {who} has {share} of 2000");
    }
    let moved = five.iter().zip(&four).filter(|(before, after)| before != after).count();
    let gone = five.iter().filter(|it| it.port() == 8084).count();
    assert!(moved - gone < 200, "{moved} moved, of which {gone} had to");
}
