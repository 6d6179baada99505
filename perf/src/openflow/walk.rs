//! How many actions of connection tracking a packet meets: what its way through Open vSwitch costs.

use seine_pipeline::state::Action;

/// Where the two ends of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// Both on this node.
    Local,
    /// The one that is asked is behind the tunnel.
    ToPeer,
    /// The one that asks is.
    FromPeer,
    /// They are the same: a Pod reaches itself through a Service.
    Hairpin,
}

/// A connection, as far as the number depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walk {
    /// Where they are.
    pub ends: Ends,
    /// Through a Service of this node.
    pub service: bool,
    /// What a rule for the sender decides, if one does.
    pub egress: Option<Action>,
    /// What a rule for the receiver decides, if one does.
    pub ingress: Option<Action>,
}

impl Walk {
    /// What the first packet meets: a look-up; the destination's translation; an allowing rule of
    /// each side that is judged here; and, unless it is denied, what remembers the connection.
    pub fn first(self) -> usize {
        let Walk { ends, service, egress, ingress } = self;
        let denies =
            |action| matches!(action, Some(Action::Drop | Action::Reject | Action::Isolate));
        let allows = |action| usize::from(action == Some(Action::Allow));
        let here = 1 + usize::from(service);
        let egress_judged = ends != Ends::FromPeer;
        if egress_judged && denies(egress) {
            return here;
        }
        let here = here + if egress_judged { allows(egress) } else { 0 };
        match ends {
            // Marked, and its source translated, which remembers it; nobody judges its receipt.
            Ends::Hairpin => here + 2,
            Ends::ToPeer => here + 1,
            Ends::Local | Ends::FromPeer if denies(ingress) => here,
            Ends::Local | Ends::FromPeer => here + allows(ingress) + 1,
        }
    }

    /// What every later packet meets, either way.
    pub fn later(self) -> usize {
        if self.ends == Ends::Hairpin { 2 } else { 1 }
    }
}

/// What packets met, by the dump of the datapath's own flows (`ovs-appctl dpctl/dump-flows`): each
/// look-up that one caused is a line, as long as nothing else passed since they were purged.
pub fn met(dump: &str) -> usize {
    let actions = dump.lines().filter_map(|line| line.split_once("actions:"));
    actions.map(|(_, actions)| actions.matches("ct(").count()).sum()
}
