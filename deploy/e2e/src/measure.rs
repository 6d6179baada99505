//! What is measured between two namespaces: ping, iperf3, netperf, and who is seen.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{Daemon, until};
use crate::failure::{Failure, Outcome, expect};
use crate::journal::Journal;
use crate::namespace::Namespace;
use crate::pod::Family;

/// Seconds that each throughput test runs.
pub const TEST_SECONDS: u32 = 2;
/// What a stuck test is given before it is ended.
const LIMIT_SECONDS: u32 = 15;
const NETPERF_PORT: u16 = 12865;
const IPERF3_PORT: u16 = 5201;

/// A figure with its unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The figure.
    pub value: f64,
    /// "Mbit/s", "us", "trans/s".
    pub unit: &'static str,
    /// What else is worth showing.
    pub note: String,
}

/// A netperf test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Netperf {
    /// One connection, as fast as it goes.
    TcpStream,
    /// One byte there, one byte back.
    TcpRr,
    /// The same with a connection for each.
    TcpCrr,
    /// Datagrams of 1024 bytes as fast as the sender can; what arrived counts.
    UdpStream,
}

impl Netperf {
    /// netperf's own name for it.
    pub fn name(self) -> &'static str {
        match self {
            Netperf::TcpStream => "TCP_STREAM",
            Netperf::TcpRr => "TCP_RR",
            Netperf::TcpCrr => "TCP_CRR",
            Netperf::UdpStream => "UDP_STREAM",
        }
    }
}

/// Starts `netserver` and `iperf3 -s` in a namespace, and waits until both listen.
pub fn start_servers(journal: &Journal, at: &Namespace, log: &Path) -> Outcome<Vec<Daemon>> {
    let mut netserver = at.command("netserver");
    netserver.arg("-D");
    let mut iperf3 = at.command("iperf3");
    iperf3.arg("-s");
    let daemons = vec![
        Daemon::start(journal, "netserver", &mut netserver, log)?,
        Daemon::start(journal, "iperf3", &mut iperf3, log)?,
    ];
    for port in [NETPERF_PORT, IPERF3_PORT] {
        until("a server listens", 5, || listens(at, port))?;
    }
    Ok(daemons)
}

/// Pings `count` times, five a second; any loss is a failure. Gives the mean round trip.
pub fn ping(from: &Namespace, to: IpAddr, count: u32) -> Outcome<Measured> {
    let text = from.run(&format!("ping -n -q -i 0.2 -W 2 -c {count} {to}"))?;
    expect(text.contains(" 0% packet loss"), || format!("ping {to} lost some: {}", text.trim()))?;
    let figures = text.lines().find_map(|line| line.split_once("= ")).map(|(_, it)| it);
    let mut figures = figures.unwrap_or_default().split('/').map(|it| it.parse::<f64>());
    let (least, mean) = (figures.next(), figures.next());
    let (Some(Ok(least)), Some(Ok(mean))) = (least, mean) else {
        return Err(Failure::Unmet(format!("ping printed no round trip: {text}")));
    };
    let note = format!("least {:.0} us, {count} sent", least * 1000.0);
    Ok(Measured { value: mean * 1000.0, unit: "us", note })
}

/// Whether one ping is answered.
pub fn pings(from: &Namespace, to: IpAddr) -> bool {
    from.run(&format!("ping -n -q -W 1 -c 1 {to}")).is_ok()
}

/// iperf3's TCP test.
pub fn iperf3(from: &Namespace, to: IpAddr) -> Outcome<Measured> {
    let text = from.run(&format!("timeout {LIMIT_SECONDS} iperf3 -c {to} -t {TEST_SECONDS} -J"))?;
    let end = &serde_json::from_str::<Value>(&text).unwrap_or_default()["end"];
    let value = end["sum_received"]["bits_per_second"].as_f64().unwrap_or_default() / 1e6;
    expect(value > 0.0, || format!("iperf3 to {to} moved nothing"))?;
    let again = end["sum_sent"]["retransmits"].as_u64().unwrap_or_default();
    Ok(Measured { value, unit: "Mbit/s", note: format!("{again} retransmits") })
}

/// One netperf test.
pub fn netperf(from: &Namespace, to: IpAddr, test: Netperf, family: Family) -> Outcome<Measured> {
    // netperf keeps datagrams off routed paths unless it is told not to.
    let own = if test == Netperf::UdpStream { "-R 1 -m 1024" } else { "" };
    let text = from.run(&format!(
        "timeout {LIMIT_SECONDS} netperf {} -H {to} -t {} -l {TEST_SECONDS} -P 0 -- {own} -k \
         THROUGHPUT,REMOTE_RECV_THROUGHPUT,LOCAL_SEND_THROUGHPUT,P50_LATENCY,P99_LATENCY",
        family.option(),
        test.name(),
    ))?;
    let figure = |key: &str| -> f64 {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let value = lines.filter(|(name, _)| *name == key).map(|(_, value)| value).next();
        value.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
    };
    let latency =
        || format!("p50 {:.0} us, p99 {:.0} us", figure("P50_LATENCY"), figure("P99_LATENCY"));
    let (value, unit, note) = match test {
        Netperf::TcpStream => (figure("THROUGHPUT"), "Mbit/s", String::new()),
        Netperf::TcpRr | Netperf::TcpCrr => (figure("THROUGHPUT"), "trans/s", latency()),
        Netperf::UdpStream => {
            let sent = format!("sent {:.0} Mbit/s", figure("LOCAL_SEND_THROUGHPUT"));
            (figure("REMOTE_RECV_THROUGHPUT"), "Mbit/s", sent)
        }
    };
    expect(value > 0.0, || format!("netperf {} to {to} moved nothing: {text}", test.name()))?;
    Ok(Measured { value, unit, note })
}

/// Connects by TCP from one namespace to a server in another, echoes some bytes, and tells the
/// address the server saw.
pub fn seen_address(from: &Namespace, to: &Namespace, target: IpAddr) -> Outcome<IpAddr> {
    let listener = to.enter(|| TcpListener::bind(SocketAddr::new(target, 0)))?;
    let listener = listener.map_err(Failure::io("listen on", Path::new(&target.to_string())))?;
    let address =
        listener.local_addr().map_err(Failure::io("name", Path::new("a listening socket")))?;
    std::thread::scope(|scope| {
        let server = scope.spawn(|| echo_once(&listener));
        from.enter(|| speak(address))??;
        server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn echo_once(listener: &TcpListener) -> Outcome<IpAddr> {
    let failed = Failure::io("accept on", Path::new("a listening socket"));
    listener.set_nonblocking(true).map_err(failed)?;
    let deadline = Instant::now() + Duration::from_secs(5);
    let (mut stream, peer) = loop {
        match listener.accept() {
            Ok(accepted) => break accepted,
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => {
                return Err(Failure::io("accept on", Path::new("a listening socket"))(error));
            }
        }
    };
    let talk = || -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut bytes = [0; 64];
        stream.read_exact(&mut bytes)?;
        stream.write_all(&bytes)
    };
    let mut talk = talk;
    talk().map_err(Failure::io("echo to", Path::new(&peer.to_string())))?;
    Ok(peer.ip())
}

fn speak(address: SocketAddr) -> Outcome {
    let talk = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&[0x5e; 64])?;
        stream.read_exact(&mut [0; 64])
    };
    talk().map_err(Failure::io("talk to", Path::new(&address.to_string())))
}

/// Whether a TCP socket listens on `port` in a namespace.
fn listens(at: &Namespace, port: u16) -> bool {
    let own = at.enter(|| {
        ["tcp", "tcp6"].map(|file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")))
    });
    let suffix = format!(":{port:04X}");
    own.is_ok_and(|tables| {
        tables.into_iter().flatten().any(|table| {
            table.lines().any(|line| {
                let mut words = line.split_whitespace().skip(1);
                let local = words.next().is_some_and(|word| word.ends_with(&suffix));
                local && words.nth(1) == Some("0A")
            })
        })
    })
}
