//! The verbs of connections, policies and rules.

use clap::{Args, Subcommand};

/// What to do with connections.
#[derive(Subcommand, Debug)]
pub enum ConnectionVerb {
    /// Who talks to whom, by which Service and which rules
    List {
        /// Which.
        #[command(flatten)]
        filter: ConnectionFilter,
        /// How many to show
        #[arg(long, value_name = "COUNT", default_value_t = 1000)]
        limit: u32,
    },
    /// How many there are
    Count(ConnectionFilter),
}

/// Which connections; all that is given has to hold.
#[derive(Args, Clone, Debug)]
pub struct ConnectionFilter {
    /// Only those of this Pod: namespace/pod, of this node; or of an address
    #[arg(long, value_name = "POD")]
    pub pod: Option<String>,
    /// Only those to this Service: namespace/name, or namespace/name:port
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// Only those that this rule let open, or a rule of this policy
    #[arg(long, value_name = "RULE")]
    pub rule: Option<String>,
}

/// What to do with policies.
#[derive(Subcommand, Debug)]
pub enum PolicyVerb {
    /// All policies with what their rules have decided
    List,
}

/// What to do with rules.
#[derive(Subcommand, Debug)]
pub enum RuleVerb {
    /// Sessions, packets and bytes of each rule, in the order in which a packet meets them
    Stats {
        /// Only those of this policy: "AntreaClusterNetworkPolicy:drop-web"
        #[arg(long, value_name = "POLICY")]
        policy: Option<String>,
    },
}
