//! Every capacity and timeout, with its reason.

/// Ports that can be open at once, the node's own among them. A node runs 110 Pods by default and
/// up to 500 where it is tuned for it; an index stays within 16 bits with room to spare.
pub const PORTS_MAX: usize = 1024;

/// Endpoints on one node: one a Pod port.
pub const ENDPOINTS_MAX: usize = PORTS_MAX;

/// Ranges that one Endpoint may send from beside its own addresses: looked through one by one.
pub const ALLOWED_ADDRESSES_MAX: usize = 64;

/// Addresses of which it is remembered who of several announced them. Virtual addresses are few.
pub const ANNOUNCEMENTS_MAX: usize = 1 << 12;

/// Ranges of VLANs that one Endpoint may send by: looked through one by one.
pub const VLAN_RANGES_MAX: usize = 64;

/// Endpoints on one node that may send tagged frames: a frame for all of a VLAN becomes as many
/// copies, less one.
pub const TRUNKS_MAX: usize = 32;

/// Tagged frames for a group that one worker copies for a Pod's port a second: ARP, neighbour
/// discovery and the hellos of routers, of each of which a few a second are many. Copies to all
/// trunks take a twentieth of a worker.
pub const FLOODS_PER_S: u32 = 1000;

/// How many of those may come at once after a pause: a router that asks for all of its neighbours.
pub const FLOODS_BURST: u32 = 1000;

/// Other nodes of the cluster. Kubernetes is tested up to 5,000 nodes.
pub const PEERS_MAX: usize = 8192;

/// Groups that rules can name: one for each selector of the cluster's policies.
pub const GROUPS_MAX: usize = 1 << 17;

/// Patterns of names with an asterisk: each is tried on every DNS answer.
pub const FQDN_PATTERNS_MAX: usize = 1024;

/// Addresses that DNS answers told Pods, one for each Pod that was told. Where there is no room,
/// the Pod with the most of it gives way.
pub const FQDN_ADDRESSES_MAX: usize = 1 << 14;

/// DNS answers a second, to one Pod and about names that its rules are about, that one worker
/// reads. Each costs up to 30 us when its server means harm, so a Pod gets 1.5% of a worker for
/// them; resolvers ask a few times a minute for a name that they keep.
pub const FQDN_ANSWERS_PER_S: u64 = 500;

/// Such answers that may come at once after a pause: those to a program that starts.
pub const FQDN_ANSWERS_BURST: u64 = 1000;

/// Seconds that an address is known by its name at least: a client that has just been told it with
/// a TTL of zero still has to connect.
pub const FQDN_LIFETIME_MIN_S: u32 = 30;

/// Members of all groups together. 150,000 addresses are aimed at, each in a few groups.
pub const MEMBERS_MAX: usize = 1 << 22;

/// Rules on one node. 40,000 policies are aimed at, most of one or two rules. A power of two: the
/// number of a rule has its slot in the lower bits.
pub const RULES_MAX: usize = 1 << 18;

/// Entries that rules make together: one for each Endpoint that a rule applies to, each group of
/// its peers and each kind of traffic. An entry is a hundred bytes or two.
pub const RULE_ENTRIES_MAX: usize = 1 << 21;

/// Ports of Services. Kubernetes is tested up to 10,000 Services.
pub const SERVICES_MAX: usize = 1 << 16;

/// Fragmented packets under way at once: a thousand new ones a second for as long as they are
/// kept, in 2.3 MiB. Beyond that those give way that would be forgotten first.
pub const FRAGMENTS_MAX: usize = 1 << 15;

/// How long a later fragment may come after its first: as long as Linux waits for the missing ones
/// (`ipfrag_time`).
pub const FRAGMENT_TIMEOUT_MS: u64 = 30_000;

/// Audit records that a worker keeps until they are taken: enough for Antrea's 5,000 a second when
/// they are taken five times a second.
pub const AUDIT_RECORDS_MAX: usize = 1024;

/// Denials that a worker watches for repetitions.
pub const AUDIT_PENDING_MAX: usize = 1024;

/// Endpoints of one Service. Kubernetes is tested with 250; the largest Maglev table has enough
/// slots for this many.
pub const SERVICE_ENDPOINTS_MAX: usize = crate::table::MEMBERS_MAX;

/// Ranges of clients of one Service. Each is looked at for a client that opens a connection to a
/// load balancer's address, which takes a microsecond for so many.
pub const SOURCE_RANGES_MAX: usize = 256;

/// Clients whose endpoint is remembered, of all Services with affinity: 64 bytes each. One that is
/// forgotten early is sent to an endpoint anew, which may be another.
pub const AFFINITIES_MAX: usize = 1 << 16;

/// Next hops on the underlay: one a peer.
pub const ADJACENCIES_MAX: usize = PEERS_MAX;

/// Frames a worker takes from a queue at once. Large enough to spread the cost of a system call,
/// small enough for a batch's headers to stay in the first-level cache.
pub const BATCH_MAX: usize = 64;

/// IPv6 extension headers followed before a packet counts as malformed. RFC 8504 section 5.3 lets
/// a node bound them; five kinds exist that may stand before the payload, each once but one.
pub const EXTENSION_HEADERS_MAX: usize = 8;

/// VLAN tags followed.
pub const VLAN_TAGS_MAX: usize = 1;

/// Bytes that a tunnel puts in front of a frame at most: Ethernet, IPv6, UDP, Geneve without
/// options. Every frame has at least this headroom.
pub const ENCAPSULATION_MAX: usize = 14 + 40 + 8 + 8;

/// Lines one trace can hold; the pipeline has fewer tables than that.
pub const TRACE_STEPS_MAX: usize = 64;

/// ICMP errors and TCP resets a second that a worker builds itself for what comes in by a Pod's
/// port; four times as many for each of the world behind the gateway, all peers, and the node; and
/// as many "too big" beside them. RFC 4443 section 2.4 (f) and RFC 1812 section 4.3.2.8 ask for a
/// limit. Linux sends 1000 a second in all, and one a second to each host (`icmp_msgs_per_sec`,
/// `icmp_ratelimit`), but as many "fragmentation needed" and resets as it takes. A port stands for
/// a host here; clients that are refused try again a few times a second each.
pub const ERRORS_PER_S: u32 = 1000;

/// How many of those may go out at once after a pause: a Pod that starts and tries all of its
/// Services, while none is there yet.
pub const ERRORS_BURST: u32 = 1000;

/// Connections that a table can hold at most: 3.5 GiB of memory.
pub const CONNECTIONS_MAX: u32 = 1 << 24;

/// Capacity and fairness of the connection table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionLimits {
    /// Connections at once.
    pub connections: u32,
    /// Connections at once that began at one Pod's port; four times as many for each of the world
    /// behind the gateway, all peers, and the node itself.
    pub per_port: u32,
    /// First packets a second that one worker takes from a Pod's port; four times as many from
    /// each of those others.
    pub first_packets_per_s: u32,
    /// First packets that may come at once after a pause.
    pub first_packets_burst: u32,
}

/// 262,144 connections in 56 MiB, as many as Linux tracks on a node of this size. A Pod may have an
/// eighth of them, and, at 2 us each, a fifth of a worker for its first packets: more than a busy
/// proxy needs, too little to starve 100 others.
impl Default for ConnectionLimits {
    fn default() -> Self {
        ConnectionLimits {
            connections: 1 << 18,
            per_port: 1 << 15,
            first_packets_per_s: 100_000,
            first_packets_burst: 20_000,
        }
    }
}
