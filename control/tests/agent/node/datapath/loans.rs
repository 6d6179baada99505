//! What the fake datapath lends.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::Path;

use seine_control::namespace::Namespace;
use seine_control::netlink::Netlink;
use seine_datapath_api::v1;
use tonic::Status;

use super::{Books, FakeDatapath, Fault};

/// Offers, by port.
#[derive(Default)]
pub(super) struct Loans {
    open: BTreeMap<String, v1::LendSocketsRequest>,
    asked: u32,
}

impl Loans {
    pub(super) fn at(&self, port: &str) -> String {
        self.open.get(port).map(|loan| loan.socket.clone()).unwrap_or_default()
    }

    pub(super) fn end(&mut self, port: &str) {
        if let Some(loan) = self.open.remove(port) {
            let _ = std::fs::remove_file(&loan.socket);
        }
    }
}

impl Books {
    pub(super) fn lend(&mut self, request: v1::LendSocketsRequest) -> Result<(), Status> {
        self.check_session(request.session)?;
        if self.fault == Some(Fault::LendSockets) {
            return Err(Status::resource_exhausted("nothing is left to lend"));
        }
        if !self.ports.contains_key(&request.name) || self.guests.contains_key(&request.name) {
            return Err(Status::not_found(format!("no open port {} with a link", request.name)));
        }
        let namespace = Namespace::open(Path::new(&request.namespace))
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let link = Netlink::open_in(&namespace).unwrap().link(&request.interface).unwrap();
        assert!(link.is_some_and(|link| link.up), "the Pod's end is not there or down");
        let _ = std::fs::remove_file(&request.socket);
        // Its file stays when nobody listens any more.
        UnixListener::bind(&request.socket).unwrap();
        self.loans.asked += 1;
        self.loans.open.insert(request.name.clone(), request);
        Ok(())
    }
}

impl FakeDatapath {
    /// What is lent on a port.
    pub fn loan(&self, port: &str) -> Option<v1::LendSocketsRequest> {
        self.books().loans.open.get(port).cloned()
    }

    /// How often something was lent since it started.
    pub fn lent(&self) -> u32 {
        self.books().loans.asked
    }

    /// Ends a loan behind the agent's back; its file stays.
    pub fn forget_loan(&self, port: &str) {
        self.books().loans.open.remove(port);
    }
}
