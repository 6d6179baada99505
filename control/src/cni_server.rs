//! The server end of the CNI plugin's words: a unix socket that only root may open.
//!
//! Every call runs to its end on a task of its own: a plugin that is killed half-way through an
//! ADD must not leave half an attachment behind.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use seine_cni::Code;
use seine_cni::v1;
use seine_cni::v1::cni_server::{Cni, CniServer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::RwLock;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};
use tracing::warn;

use crate::attach::{AttachError, Attached, Attacher, Expected, Request as Attach, default_routes};
use crate::attachments::AttachmentKey;
use crate::model::PodName;

/// Why the socket could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody answers there already.
    #[error("another seine-agent serves `{0}`; stop it first")]
    Taken(String),
    /// The socket cannot be made.
    #[error("cannot listen on `{socket}`: {source}")]
    Listen {
        /// Its path.
        socket: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Listens on `socket`, replacing one that nobody serves.
pub async fn listen(socket: &Path) -> Result<UnixListener, ServeError> {
    let shown = socket.display().to_string();
    if UnixStream::connect(socket).await.is_ok() {
        return Err(ServeError::Taken(shown));
    }
    let failed = |source| ServeError::Listen { socket: shown.clone(), source };
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // The mask closes the moment between bind and chmod.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(socket);
    nix::sys::stat::umask(before);
    let listener = listener.map_err(failed)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// How long calls under way may take to end after `stop`: more than any step may take.
const LAST_CALLS: Duration = Duration::from_secs(10);

/// Serves the plugin until `stop` is done and the calls under way have ended.
pub async fn serve(
    listener: UnixListener,
    attacher: Arc<Attacher>,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let calls = Arc::new(RwLock::new(()));
    let served = tonic::transport::Server::builder()
        .add_service(CniServer::new(Server { attacher, calls: calls.clone() }))
        .serve_with_incoming(UnixListenerStream::new(listener));
    // Calls, not connections: an idle client must not keep the agent from ending.
    let stopped = async {
        stop.await;
        if tokio::time::timeout(LAST_CALLS, calls.write()).await.is_err() {
            warn!("calls of the CNI plugin did not end within {} s", LAST_CALLS.as_secs());
        }
    };
    tokio::select! {
        served = served => served,
        () = stopped => Ok(()),
    }
}

struct Server {
    attacher: Arc<Attacher>,
    /// Shared by every call under way.
    calls: Arc<RwLock<()>>,
}

impl Server {
    /// Runs `work` whether or not the caller stays.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Status> {
        let call = self.calls.clone().try_read_owned();
        let call = call.map_err(|_| Status::unavailable("seine-agent is ending"))?;
        let ended = tokio::spawn(async move {
            let _call = call;
            work.await
        });
        ended
            .await
            .map_err(|error| Status::internal(format!("the agent failed on this call: {error}")))
    }
}

#[tonic::async_trait]
impl Cni for Server {
    async fn add(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::AddReply>, Status> {
        let request = attach(request.into_inner());
        let attacher = self.attacher.clone();
        let answer = match self.to_the_end(async move { attacher.add(request).await }).await? {
            Ok(attached) => v1::add_reply::Answer::Attachment(result(&attached)),
            Err(error) => v1::add_reply::Answer::Error(refusal(&error, error.code())),
        };
        Ok(Response::new(v1::AddReply { answer: Some(answer) }))
    }

    async fn del(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::Reply>, Status> {
        let key = attach(request.into_inner()).key;
        let attacher = self.attacher.clone();
        let outcome = self.to_the_end(async move { attacher.del(&key).await }).await?;
        Ok(reply(outcome, AttachError::code))
    }

    async fn check(
        &self,
        request: Request<v1::CheckRequest>,
    ) -> Result<Response<v1::Reply>, Status> {
        let v1::CheckRequest { attachment, expected } = request.into_inner();
        let attachment =
            attachment.ok_or_else(|| Status::invalid_argument("attachment is missing"))?;
        let request = attach(attachment);
        let expected = match expectation(&request.key.interface, &expected.unwrap_or_default()) {
            Ok(expected) => expected,
            Err(message) => {
                let error = v1::Error {
                    code: Code::InvalidConfig.number(),
                    message,
                    details: "prevResult must be the result of the ADD".into(),
                };
                return Ok(Response::new(v1::Reply { error: Some(error) }));
            }
        };
        let attacher = self.attacher.clone();
        let outcome =
            self.to_the_end(async move { attacher.check(&request, expected).await }).await?;
        Ok(reply(outcome, AttachError::code))
    }

    async fn status(
        &self,
        _request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::Reply>, Status> {
        Ok(reply(self.attacher.status(), AttachError::status_code))
    }
}

fn attach(request: v1::AttachRequest) -> Attach {
    let pod = (!request.pod_name.is_empty())
        .then_some(PodName { namespace: request.pod_namespace, name: request.pod_name });
    Attach {
        key: AttachmentKey { container_id: request.container_id, interface: request.interface },
        netns: request.netns.into(),
        pod,
        pod_uid: request.pod_uid,
        network: request.network,
    }
}

fn refusal(error: &AttachError, code: Code) -> v1::Error {
    v1::Error { code: code.number(), message: error.to_string(), details: error.advice().into() }
}

fn reply(
    outcome: Result<(), AttachError>,
    code: impl Fn(&AttachError) -> Code,
) -> Response<v1::Reply> {
    Response::new(v1::Reply { error: outcome.err().map(|error| refusal(&error, code(&error))) })
}

fn result(attached: &Attached) -> v1::Attachment {
    let attachment = &attached.attachment;
    let container = v1::Interface {
        name: attachment.key.interface.clone(),
        mac: attachment.mac.to_string(),
        mtu: attachment.mtu,
        sandbox: attachment.netns.display().to_string(),
        socket_path: attachment.socket().map(|it| it.display().to_string()).unwrap_or_default(),
    };
    let host = v1::Interface {
        name: attachment.port.clone(),
        mac: attached.host_mac.map(String::from).unwrap_or_default(),
        mtu: attachment.mtu,
        ..v1::Interface::default()
    };
    // A Pod without an interface has no host end, and nobody has made a route in it: each address
    // tells its gateway.
    let has_link = attachment.has_link();
    let interfaces = if has_link { vec![host, container] } else { vec![container] };
    let own = interfaces.len() as u32 - 1;
    let ips = attached.addresses.iter().map(|address| v1::Ip {
        address: address.address.to_string(),
        gateway: address.gateway.to_string(),
        interface: own,
    });
    let routes = if has_link { default_routes(&attached.addresses) } else { Vec::new() };
    let routes = routes.into_iter().map(|(destination, gateway)| v1::Route {
        destination: destination.to_string(),
        gateway: gateway.to_string(),
    });
    v1::Attachment { ips: ips.collect(), routes: routes.collect(), interfaces }
}

/// What a previous result says of the container's interface of that name.
fn expectation(interface: &str, result: &v1::Attachment) -> Result<Expected, String> {
    let mut expected = Expected::default();
    let own = result.interfaces.iter().position(|i| i.name == interface && !i.sandbox.is_empty());
    let mac = own.and_then(|own| result.interfaces.get(own)).map_or("", |own| own.mac.as_str());
    if !mac.is_empty() {
        expected.mac = Some(mac.parse().map_err(|error| format!("{error}"))?);
    }
    for ip in &result.ips {
        let is_ours = own.is_none_or(|own| ip.interface as usize == own);
        // A result need not say which interface an address belongs to.
        if is_ours || ip.interface == u32::MAX {
            let address: IpNet = ip
                .address
                .parse()
                .map_err(|_| format!("`{}` is not an address with a prefix", ip.address))?;
            expected.addresses.push(address);
        }
    }
    for route in &result.routes {
        let destination: IpNet = route
            .destination
            .parse()
            .map_err(|_| format!("`{}` is not a destination", route.destination))?;
        let gateway = match route.gateway.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| format!("`{text}` is not a gateway"))?),
        };
        expected.routes.push((destination, gateway));
    }
    Ok(expected)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_check_expects_what_the_add_has_answered() {
        let result = v1::Attachment {
            interfaces: vec![
                v1::Interface {
                    name: "v0".into(),
                    mac: "02:00:00:00:00:01".into(),
                    ..v1::Interface::default()
                },
                v1::Interface {
                    name: "eth0".into(),
                    mac: "02:04:0a:0a:01:02".into(),
                    mtu: 1450,
                    sandbox: "/run/netns/x".into(),
                    socket_path: String::new(),
                },
            ],
            ips: vec![v1::Ip {
                address: "10.10.1.2/24".into(),
                gateway: "10.10.1.1".into(),
                interface: 1,
            }],
            routes: vec![v1::Route { destination: "0.0.0.0/0".into(), gateway: String::new() }],
        };
        let expected = expectation("eth0", &result).unwrap();
        assert_eq!(expected.mac, Some("02:04:0a:0a:01:02".parse().unwrap()));
        assert_eq!(expected.addresses, ["10.10.1.2/24".parse().unwrap()]);
        assert_eq!(expected.routes, [("0.0.0.0/0".parse().unwrap(), None)]);
        let mut wrong = result;
        wrong.ips[0].address = "10.10.1.2".into();
        assert!(expectation("eth0", &wrong).is_err());
    }
}
