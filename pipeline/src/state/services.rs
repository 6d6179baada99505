//! Services as installed.

use std::sync::Arc;

use super::check::refuse;
use super::service::Service;
use super::{Kind, Refusal};
use crate::limits::SERVICES_MAX;
use crate::table::Exact;

/// Every Service, and what packets ask of them.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    services: Exact<Arc<str>, Arc<Service>>,
}

impl Services {
    pub(super) fn new(seed: u64) -> Services {
        Services { services: Exact::new(seed) }
    }

    pub(super) fn service(&self, name: &str) -> Option<&Service> {
        self.services.get(name).map(Arc::as_ref)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(|(name, _)| name.as_ref())
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.services.remove(name);
    }

    pub(super) fn put(&mut self, service: &Service) -> Result<(), Refusal> {
        if self.services.len() >= SERVICES_MAX {
            let reason = format!("there are {SERVICES_MAX} Services, the most there can be");
            return refuse(Kind::Service, &service.name, "name", reason);
        }
        self.services.insert(service.name.as_str().into(), Arc::new(service.clone()));
        Ok(())
    }
}
