//! What was attached before the agent started, and what was deleted while the datapath was away.

use std::collections::BTreeSet;
use std::path::PathBuf;

use tracing::{info, warn};

use super::{AttachError, Attacher, pod_link, socket_folder};
use crate::attachments::Attachment;
use crate::compile::{endpoint, loan, port};
use crate::model::SenderPermit;
use crate::namespace::Namespace;

impl Attacher {
    /// Brings back what was attached before the agent started: everything whose link still
    /// exists. A link lives exactly as long as both its namespaces, so one that is gone took the
    /// Pod's interface with it, and its address can be used by nobody; that the Pod is not (yet)
    /// among the manifests proves nothing and is no reason. Links of ours without a record are
    /// what a crash left before their address was recorded: no runtime was told of them. A Pod
    /// without a link is there as long as its namespace and the folder of its socket are.
    pub async fn restore(&self, ports: &Namespace) -> Result<(), AttachError> {
        self.sweep_folders();
        let links = ports.run(pod_link::host_ends).await??;
        for link in &links {
            if !self.attachments.any(|attachment| attachment.port == *link) {
                info!(link, "deleting a link that no attachment is recorded for");
                self.delete_link_in(ports, link).await?;
            }
        }
        for attachment in self.attachments.list() {
            let _turn = self.turns.take(&attachment.key).await;
            let Some(attachment) = self.attachments.find(&attachment.key) else {
                continue;
            };
            if attachment.detaching {
                continue;
            }
            let is_there = match attachment.vhost_user() {
                None => links.contains(&attachment.port),
                Some(guest) => {
                    socket_folder::exists(&guest.socket)
                        && Namespace::open(&attachment.netns).is_ok()
                }
            };
            let attachment = self.permitted(attachment);
            if is_there {
                self.session.desire(endpoint(&attachment), port(&attachment), loan(&attachment));
                self.tables.restore(&attachment);
            } else {
                info!(key = %attachment.key, endpoint = attachment.endpoint,
                    "it is gone; the address is free once the datapath has forgotten it");
                self.attachments.mark_detaching(&attachment.key);
            }
        }
        self.attachments.set_ports_namespace(ports.path());
        self.attachments.persist().await?;
        Ok(())
    }

    /// Frees what was deleted while the datapath was away. To be called when a full
    /// synchronisation is in force: it has pruned every endpoint that is not desired.
    pub async fn finish_detaching(&self) -> Result<(), AttachError> {
        for attachment in self.attachments.list() {
            let _turn = self.turns.take(&attachment.key).await;
            match self.attachments.find(&attachment.key) {
                Some(attachment) if attachment.detaching => self.detach(&attachment).await?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The attachment without what no operator permits any more.
    fn permitted(&self, attachment: Attachment) -> Attachment {
        let namespace = attachment.pod.as_ref().map_or("", |pod| pod.namespace.as_str());
        let Err(error) = attachment.permit.check(namespace, &self.permissions) else {
            return attachment;
        };
        warn!(key = %attachment.key, "it sends from its own addresses only from now on: {error}");
        self.attachments.revoke(&attachment.key);
        Attachment { permit: SenderPermit::default(), ..attachment }
    }

    /// Removes the folders of sockets that no attachment is recorded for.
    fn sweep_folders(&self) {
        let attachments = self.attachments.list();
        let sockets: BTreeSet<PathBuf> =
            attachments.iter().filter_map(|it| Some(it.socket()?.to_owned())).collect();
        match socket_folder::sweep(&self.vhost_user.socket_dir, &sockets) {
            Ok(swept) => swept.iter().for_each(|socket| {
                info!(socket = %socket.display(), "deleted a socket's folder without attachment");
            }),
            // It takes some memory, and no Pod can be attached in its place, which says so.
            Err(error) => warn!("looking for folders without an attachment: {error}"),
        }
    }
}
