//! What is in the books, for tests to look at.

use seine_datapath_api::v1;

use super::{FakeDatapath, Objects};

impl FakeDatapath {
    /// What is in force.
    pub fn objects(&self) -> Objects {
        self.books().objects.clone()
    }

    pub fn ports(&self) -> Vec<String> {
        self.books().ports.keys().cloned().collect()
    }

    /// How a guest's port was opened.
    pub fn guest(&self, port: &str) -> Option<v1::VhostUser> {
        self.books().guests.get(port).cloned()
    }

    /// Opens a port behind the agent's back.
    pub fn open_stray(&self, name: &str) {
        self.books().ports.insert(name.into(), 999);
    }

    pub fn transactions(&self) -> (u32, u32) {
        let books = self.books();
        (books.transactions, books.full)
    }

    fn named(&self, kind: v1::object_id::Kind) -> Vec<String> {
        let books = self.books();
        let of_kind = books.objects.keys().filter(|key| key.0 == kind as i32);
        of_kind.map(|key| key.1.clone()).collect()
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.named(v1::object_id::Kind::Endpoint)
    }

    pub fn peers(&self) -> Vec<String> {
        self.named(v1::object_id::Kind::Peer)
    }

    pub fn endpoint(&self, name: &str) -> v1::Endpoint {
        let books = self.books();
        match &books.objects[&(v1::object_id::Kind::Endpoint as i32, name.to_owned())].kind {
            Some(v1::object::Kind::Endpoint(endpoint)) => endpoint.clone(),
            other => panic!("{other:?}"),
        }
    }
}
