//! What is sent through what: everything that tells one row from another.

use seine_pipeline::limits::BATCH_MAX;
use serde::{Deserialize, Serialize};

/// Where packets come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Ports {
    /// Rings in memory: frames pass uncopied, no system calls.
    Memory,
    /// Rings that are shared with guests: a copy in, a copy out.
    VhostUser,
    /// Veths, with AF_XDP sockets at both ends: the kernel copies, and is called for each batch.
    #[serde(rename = "af_xdp")]
    #[value(name = "af_xdp")]
    AfXdp,
}

/// How guests keep their rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Rings {
    /// Descriptors, and a ring for each side.
    #[default]
    Split,
    /// One ring that both sides write.
    Packed,
}

impl Ports {
    /// As in `--ports`.
    pub fn name(self) -> &'static str {
        match self {
            Ports::Memory => "memory",
            Ports::VhostUser => "vhost-user",
            Ports::AfXdp => "af_xdp",
        }
    }
}

/// In which order connections send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// All alike: one random permutation of them after the other.
    Uniform,
    /// The n-th most busy one sends a n-th of what the busiest does.
    Zipf,
}

impl Order {
    /// As in `--order`.
    pub fn name(self) -> &'static str {
        match self {
            Order::Uniform => "uniform",
            Order::Zipf => "zipf",
        }
    }
}

/// Whether packets of the window cross nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Tunnel {
    /// From Pod to Pod of one node.
    None,
    /// From Pods here to Pods of the peer: the worker puts Geneve around them.
    GeneveOut,
    /// From Pods of the peer to Pods here: the worker takes Geneve off.
    GeneveIn,
}

impl Tunnel {
    /// As in `--tunnel`.
    pub fn name(self) -> &'static str {
        match self {
            Tunnel::None => "none",
            Tunnel::GeneveOut => "geneve-out",
            Tunnel::GeneveIn => "geneve-in",
        }
    }
}

/// Which directions of the connections send in the window; before it both do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Ways {
    /// Half of the packets are replies.
    Both,
    /// Only those who began.
    One,
    /// Only those who began, and each packet that comes out is answered; not between memory ports.
    Echo,
}

/// What stands in the UDP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Sum {
    /// Nothing: the cheap case for Open vSwitch, whose conntrack verifies what is there.
    Zero,
    /// The right sum.
    Complete,
    /// The pseudo-header's sum, the rest left to the device, as virtio guests send.
    Partial,
}

/// What each packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One of a connection that was answered and spoke again.
    Established,
    /// The first of its connection.
    New,
}

/// One row: what is sent through what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Where packets come from and go to.
    pub ports: Ports,
    /// How guests keep their rings, where there are guests.
    #[serde(default)]
    pub rings: Rings,
    /// Pods of this node, each with a port.
    pub pods: usize,
    /// Connections; with new ones, how many the table holds.
    pub connections: u32,
    /// Which of them sends next.
    pub order: Order,
    /// Bytes of a frame without its check sequence; inside a tunnel, of the inner one.
    pub size: usize,
    /// Policies for every Pod and direction, one rule each; each connection is let through by one.
    pub policies_per_side: usize,
    /// Services through which all connections go; 0: straight to the Pod.
    pub services: usize,
    /// Whether packets cross nodes.
    pub tunnel: Tunnel,
    /// Which directions send.
    pub ways: Ways,
    /// What stands in the UDP checksum.
    pub checksum: Sum,
    /// Packets are TCP of 64 KiB in segments, as guests with TSO send.
    #[serde(default)]
    pub tso: bool,
    /// What each packet is.
    pub kind: Kind,
    /// Cores that forward.
    pub workers: usize,
    /// Generator and worker take turns on one core.
    pub in_line: bool,
    /// Packets under way at once.
    pub in_flight: usize,
    /// Pages of 2 MiB for the connection table.
    pub huge_pages: bool,
    /// Policies and Pods change meanwhile, and Services that nobody uses are installed.
    pub churn: bool,
    /// So many percent of the packets that could be forwarded are sent, evenly; none: all.
    #[serde(default)]
    pub load_pct: Option<u8>,
    /// How long the window is.
    pub seconds: f64,
}

/// Packets under way at once.
const IN_FLIGHT: usize = 4096;
/// The same of packets in segments: as many bytes as 3000 ordinary ones.
const SEGMENTED_IN_FLIGHT: usize = 64;
/// Payload of a segment: what is left of 1500 bytes where TCP tells the time.
pub const SEGMENT_BYTES: usize = 1448;
/// Bytes of a frame in segments: as many whole ones as IPv4 has room for, and headers once.
pub const SEGMENTED_BYTES: usize = 54 + 45 * SEGMENT_BYTES;

impl Profile {
    /// The default, the same for every system that is measured.
    pub fn plain(kind: Kind) -> Profile {
        Profile {
            ports: Ports::Memory,
            rings: Rings::Split,
            pods: 64,
            connections: 10_000,
            order: Order::Uniform,
            size: 64,
            policies_per_side: 10,
            services: 0,
            tunnel: Tunnel::None,
            ways: Ways::Both,
            checksum: Sum::Zero,
            tso: false,
            kind,
            workers: 1,
            in_line: false,
            in_flight: match kind {
                Kind::Established => IN_FLIGHT,
                // A worker reports what gave way for new ones once a round, a batch at most.
                Kind::New => BATCH_MAX,
            },
            huge_pages: true,
            churn: false,
            load_pct: None,
            seconds: 2.0,
        }
    }

    /// Packets of 64 KiB in segments between guests; few Pods, because buffers are large.
    pub fn segmented() -> Profile {
        Profile {
            ports: Ports::VhostUser,
            pods: 8,
            connections: 1000,
            size: SEGMENTED_BYTES,
            checksum: Sum::Partial,
            tso: true,
            in_flight: SEGMENTED_IN_FLIGHT,
            ..Profile::plain(Kind::Established)
        }
    }

    /// What cannot be measured, in words.
    pub fn check(&self) -> Result<(), String> {
        let refused = |reason: &str| Err(reason.to_owned());
        let frame_max = 1500 + 14;
        if self.tso {
            let plain = self.services == 0 && self.kind == Kind::Established;
            let outside = self.ports == Ports::VhostUser && self.load_pct.is_none();
            if !plain || !outside || self.checksum != Sum::Partial || self.size != SEGMENTED_BYTES {
                return refused(
                    "--tso goes with --ports vhost-user, and with no --size, --checksum, \
                                --services, --load or --new",
                );
            }
        } else if !(64..=frame_max).contains(&self.size) {
            return Err(format!("--size {} is not from 64 to {frame_max}", self.size));
        }
        if !(8..=512).contains(&self.pods) {
            return Err(format!("--pods {} is not from 8 to 512", self.pods));
        }
        if self.connections == 0 || self.connections > 1 << 23 {
            return Err(format!("--connections {} is not from 1 to 8388608", self.connections));
        }
        if !(1..=40_000).contains(&self.policies_per_side) {
            return refused("--policies-per-side is not from 1 to 40000");
        }
        if self.services > 60_000 {
            return refused("--services is not from 0 to 60000");
        }
        if self.services > 0 && !self.pods.is_multiple_of(4) {
            return refused("with --services, --pods is a multiple of 4");
        }
        if self.services > 0 && self.tunnel != Tunnel::None {
            return refused("--services and --tunnel cannot be had together");
        }
        if self.checksum == Sum::Partial && self.tunnel != Tunnel::None {
            return refused("--checksum partial and --tunnel cannot be had together");
        }
        if !(1..=2).contains(&self.workers) {
            return refused("--workers is neither 1 nor 2");
        }
        if self.kind == Kind::New && (self.checksum != Sum::Zero || self.churn) {
            return refused("--new goes with --checksum zero and without --churn");
        }
        if !(64..=1 << 16).contains(&self.in_flight) {
            return refused("--in-flight is not from 64 to 65536");
        }
        self.check_ports()
    }

    fn check_ports(&self) -> Result<(), String> {
        let refused = |reason: &str| Err(reason.to_owned());
        if self.ports == Ports::Memory {
            if self.ways == Ways::Echo || self.load_pct.is_some() {
                return refused("--ways echo and --load go with other ports than memory");
            }
            return Ok(());
        }
        if self.workers > 1 || self.in_line || self.tunnel != Tunnel::None || self.churn {
            return refused("--workers 2, --in-line, --tunnel and --churn go with memory ports");
        }
        let paced = self.kind == Kind::Established && self.checksum == Sum::Zero;
        if self.load_pct.is_some_and(|it| !(1..=100).contains(&it) || !paced) {
            return refused("--load is from 1 to 100, with --checksum zero and without --new");
        }
        if self.checksum == Sum::Partial && !self.tso {
            return refused("--checksum partial goes with memory ports");
        }
        Ok(())
    }
}
