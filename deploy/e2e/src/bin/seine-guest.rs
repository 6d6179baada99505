//! `seine-guest`: all that runs in a virtual machine of the cluster tests.
//!
//! It reads a command a line from a serial port and answers with a line, "ok ..." or "failed ...".
//! What it needs of a system is the kernel and busybox.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use seine_e2e::seeded::{BLOCK_BYTES, Seeded};

const LINE: &str = "/dev/ttyS1";
const DEVICE: &str = "/sys/class/net/eth0";

/// How long a peer may be silent. Longer than a restarted datapath takes.
const SILENCE_MAX: Duration = Duration::from_secs(30);

fn main() -> io::Result<()> {
    busybox(&format!("stty -F {LINE} raw -echo"))?;
    let mut answers = OpenOptions::new().write(true).open(LINE)?;
    let commands = BufReader::new(OpenOptions::new().read(true).open(LINE)?);
    writeln!(answers, "ok ready")?;
    for line in commands.lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match obey(&words) {
            Ok(answer) => writeln!(answers, "ok {answer}")?,
            Err(error) => writeln!(answers, "failed {line}: {error}")?,
        }
    }
    Ok(())
}

fn obey(words: &[&str]) -> io::Result<String> {
    match *words {
        ["address", address, gateway, mtu] => {
            busybox(&format!("ip link set eth0 mtu {mtu} up"))?;
            busybox(&format!("ip addr add {address} dev eth0"))?;
            busybox(&format!("ip route add default via {gateway}"))?;
            Ok(String::new())
        }
        ["show", file] => {
            let text = fs::read_to_string(format!("{DEVICE}/{file}"))?;
            Ok(text.trim().to_owned())
        }
        ["connect", target] => {
            match TcpStream::connect_timeout(&parsed(target)?, Duration::from_secs(2)) {
                Ok(_) => Ok("open".to_owned()),
                Err(error) if error.kind() == ErrorKind::TimedOut => Ok("silent".to_owned()),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    Ok("refused".to_owned())
                }
                Err(error) => Err(error),
            }
        }
        ["exchange", target, bytes, seed] => {
            exchange(parsed(target)?, parsed(bytes)?, parsed(seed)?)
        }
        _ => Err(io::Error::other("no such command")),
    }
}

/// Sends a stream and reads the next one back.
fn exchange(target: SocketAddr, bytes: u64, seed: u64) -> io::Result<String> {
    let blocks = bytes / BLOCK_BYTES as u64;
    let mut stream = TcpStream::connect_timeout(&target, SILENCE_MAX)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    Seeded { seed, blocks }.send(&mut stream)?;
    Seeded { seed: seed + 1, blocks }.check(&mut stream)?;
    Ok(format!("{bytes} bytes each way"))
}

fn busybox(words: &str) -> io::Result<()> {
    let output = Command::new("/bin/busybox").args(words.split(' ')).output()?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("`{words}`: {}", error.trim().replace('\n', "; "))))
}

fn parsed<T: std::str::FromStr>(word: &str) -> io::Result<T> {
    word.parse().map_err(|_| io::Error::other(format!("`{word}` is not what belongs there")))
}
