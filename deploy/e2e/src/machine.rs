//! A virtual machine: QEMU with an emulated processor, and a network device behind a vhost-user
//! socket.
//!
//! Emulated, because it then runs on every machine. It is spoken to by a serial line, on which
//! `seine-guest` answers.

mod archive;
mod image;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::daemon::Daemon;
use crate::failure::{Failure, Outcome};
use crate::journal::Journal;

use self::image::Image;

const MEMORY_MIB: u32 = 256;

/// How long it may take to boot on a machine that is busy with other things.
const BOOT_SECONDS_MAX: u64 = 120;

/// A network device of a machine.
#[derive(Clone, Debug)]
pub struct Nic {
    /// The vhost-user socket that the datapath listens at.
    pub socket: PathBuf,
    /// Its MAC address.
    pub mac: String,
    /// What else QEMU is to be told of it: ",packed=on".
    pub options: &'static str,
}

/// A running machine. Ended when it is dropped.
#[derive(Debug)]
pub struct Machine {
    qemu: Daemon,
    console: BufReader<UnixStream>,
}

impl Machine {
    /// Boots one, with its files in `folder`, and waits until it answers.
    pub fn start(journal: &Journal, folder: &Path, nic: &Nic) -> Outcome<Machine> {
        let image = Image::make(folder)?;
        let console = folder.join("console.sock");
        let mut command = command(&image, folder, &console, nic);
        let mut qemu = Daemon::start(journal, "qemu", &mut command, &folder.join("qemu.log"))?;
        let mut stream = None;
        qemu.until("its serial line is there", || {
            stream = UnixStream::connect(&console).ok();
            stream.is_some()
        })?;
        let stream = stream.ok_or_else(|| Failure::Unmet("no serial line".to_owned()))?;
        let mut machine = Machine { qemu, console: BufReader::new(stream) };
        let booted = machine.answer(Duration::from_secs(BOOT_SECONDS_MAX));
        booted.map_err(|failure| {
            let kernel = std::fs::read_to_string(folder.join("kernel.log")).unwrap_or_default();
            let tail = machine.qemu.log_tail(12);
            Failure::Unmet(format!("the guest does not boot: {failure}\n{tail}\n{kernel}"))
        })?;
        Ok(machine)
    }

    /// Tells it something, and waits for the answer.
    pub fn ask(&mut self, line: &str, limit: Duration) -> Outcome<String> {
        self.tell(line)?;
        self.answer(limit)
    }

    /// Tells it something; what it answers is to be taken later.
    pub fn tell(&mut self, line: &str) -> Outcome {
        let said = writeln!(self.console.get_mut(), "{line}");
        said.map_err(Failure::io("write", Path::new("the guest's serial line")))
    }

    /// Takes an answer.
    pub fn answer(&mut self, limit: Duration) -> Outcome<String> {
        let failed = Failure::io("read", Path::new("the guest's serial line"));
        let mut line = String::new();
        let read = self.console.get_ref().set_read_timeout(Some(limit));
        read.and_then(|()| self.console.read_line(&mut line)).map_err(failed)?;
        match line.trim().strip_prefix("ok") {
            Some(answer) => Ok(answer.trim().to_owned()),
            None => Err(Failure::Unmet(format!("the guest says `{}`", line.trim()))),
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Outcome {
        self.qemu.kill()
    }
}

fn command(image: &Image, folder: &Path, console: &Path, nic: &Nic) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    let mut add = |words: &[&str]| {
        command.args(words);
    };
    add(&["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    add(&["-accel", "tcg", "-cpu", "max", "-machine", "pc,memory-backend=memory"]);
    let mib = MEMORY_MIB;
    add(&["-m", &mib.to_string(), "-object"]);
    add(&[&format!("memory-backend-memfd,id=memory,size={mib}M,share=on")]);
    add(&["-kernel", &image.kernel.display().to_string()]);
    add(&["-initrd", &image.initramfs.display().to_string()]);
    add(&["-append", "console=ttyS0 quiet panic=-1"]);
    add(&["-serial", &format!("file:{}", folder.join("kernel.log").display())]);
    let console = format!("socket,id=console,path={},server=on,wait=off", console.display());
    add(&["-chardev", &console, "-serial", "chardev:console"]);
    let socket = format!("socket,id=port,path={},reconnect=1", nic.socket.display());
    add(&["-chardev", &socket, "-netdev", "vhost-user,id=network,chardev=port"]);
    let Nic { mac, options, .. } = nic;
    // No boot program, since nothing is booted from the network. No vectors: QEMU 7.2 without KVM
    // crashes when a vhost-user device unmasks one.
    let device = format!("virtio-net-pci,netdev=network,mac={mac},romfile=,vectors=0{options}");
    add(&["-device", &device]);
    command
}
