//! What only lent sockets promise: one set of them, and one memory, whatever becomes of the
//! interface.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use seine_datapath::port::af_xdp::{Loan, LoanOptions};

use crate::device::{Pod, Room, run};

/// Takes a loan: its connection, and what came by it.
fn take(socket: &Path) -> (UnixStream, Vec<OwnedFd>) {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (mut bytes, mut space) = ([0; 512], nix::cmsg_space!([i32; 8]));
    let mut words = [IoSliceMut::new(&mut bytes)];
    let message =
        recvmsg::<()>(stream.as_raw_fd(), &mut words, Some(&mut space), MsgFlags::empty()).unwrap();
    assert!(message.bytes > 0, "it says what came of it");
    let taken = message.cmsgs().unwrap().flat_map(|control| match control {
        ControlMessageOwned::ScmRights(descriptors) => descriptors,
        _ => Vec::new(),
    });
    // SAFETY: the kernel made them for this message, and nobody else knows them.
    let taken = taken.map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }).collect();
    (stream, taken)
}

#[test]
#[ignore = "needs CAP_NET_ADMIN"]
fn a_pod_that_moves_its_interface_gets_no_second_set_of_sockets() {
    let (pod, elsewhere) = (Pod::new(1, 1500), Room::new("else"));
    let folder = tempfile::tempdir().unwrap();
    let options = LoanOptions {
        namespace: format!("/run/netns/{}", pod.pod.name).into(),
        interface: "eth0".to_owned(),
        socket: folder.path().join("xdp.sock"),
        owner: (0, 0),
    };
    let loan = Loan::open(options).unwrap();
    let (connection, kept) = take(loan.socket());
    assert_eq!(kept.len(), 2, "memory, and a socket");
    // The kernel unbinds what is bound to an interface that leaves its namespace.
    let (home, other) = (&pod.pod.name, &elsewhere.name);
    run(&format!("ip -n {home} link set eth0 netns {other}"));
    run(&format!("ip -n {other} link set eth0 netns {home}"));
    run(&format!("ip -n {home} link set eth0 up"));
    drop(connection);
    let (_, none) = take(loan.socket());
    assert_eq!(none.len(), 0, "the first set is still held");
    drop(kept);
    assert_eq!(take(loan.socket()).1.len(), 2);
}
