//! What the plugin says about itself to a person.

use std::fmt::Write as _;

use crate::{Code, SpecVersion};

/// `seine-cni 0.1.0 (CNI 0.3.0, ...)`.
pub fn version() -> String {
    let versions = SpecVersion::names().join(", ");
    format!("seine-cni {} (CNI {versions})\n", env!("CARGO_PKG_VERSION"))
}

/// The text of `--help`.
pub fn text() -> String {
    let mut text = version();
    text.push_str(
        r#"
The CNI plugin of Seine. Container runtimes run it; it asks seine-agent over a unix socket to
attach a Pod, and prints the result. It has no options beside --help and --version: what to do is
in the environment, the network configuration on stdin.

  CNI_COMMAND      ADD, DEL, CHECK, STATUS or VERSION (GC is refused: not served yet)
  CNI_CONTAINERID  the container                   ADD, DEL, CHECK
  CNI_IFNAME       its interface: eth0             ADD, DEL, CHECK
  CNI_NETNS        path of its network namespace   ADD, CHECK; optional for DEL
  CNI_ARGS         K8S_POD_NAMESPACE=..;K8S_POD_NAME=..;K8S_POD_UID=..   optional

A configuration list (/etc/cni/net.d/10-seine.conflist):

  {"cniVersion": "1.1.0", "name": "seine", "plugins": [{"type": "seine-cni"}]}

Keys of the plugin's own beside "type":

  "agentSocket"     where seine-agent listens; default /run/seine/agent.sock
  "timeoutSeconds"  how long it may take, 1 to 240; default 30
  "dns"             passed through into the result

By hand:

  ip netns add try
  echo '{"cniVersion": "1.1.0", "name": "seine", "type": "seine-cni"}' |
    CNI_COMMAND=ADD CNI_CONTAINERID=try CNI_IFNAME=eth0 CNI_NETNS=/run/netns/try seine-cni

A call that fails prints {"cniVersion", "code", "msg", "details"} on stdout and ends with status 1.
Codes (from 100 on they are Seine's own):

"#,
    );
    for code in Code::ALL {
        let _ = writeln!(text, "  {:>3}  {}", code.number(), code.meaning());
    }
    text
}
