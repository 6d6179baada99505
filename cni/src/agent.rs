//! Asking seine-agent: one connection and one question a process.

use std::io;
use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::v1::add_reply::Answer;
use crate::v1::cni_client::CniClient;
use crate::{CniError, Code, v1};

/// A connection to the agent.
#[derive(Debug)]
pub struct Agent {
    client: CniClient<Channel>,
    timeout: Duration,
}

impl Agent {
    /// Connects to the agent that serves `socket`. Each question may take `timeout`.
    pub async fn connect(socket: &Path, timeout: Duration) -> Result<Agent, CniError> {
        let stream = UnixStream::connect(socket).await.map_err(|error| {
            let details = match error.kind() {
                io::ErrorKind::NotFound => {
                    "is seine-agent running on this node, and is \
                                            \"agentSocket\" of the network configuration its path?"
                }
                io::ErrorKind::PermissionDenied => "run the plugin as root",
                _ => "is seine-agent running on this node? It may be restarting",
            };
            CniError::new(
                Code::TryAgainLater,
                format!("cannot reach seine-agent at {}: {error}", socket.display()),
                details,
            )
        })?;
        // The channel asks for its transport once; losing it ends the call.
        let mut stream = Some(TokioIo::new(stream));
        let channel = Endpoint::from_static("http://seine-agent")
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let stream = stream.take().ok_or(io::ErrorKind::NotConnected);
                async move { stream.map_err(io::Error::from) }
            }))
            .await
            .map_err(|error| {
                CniError::new(
                    Code::TryAgainLater,
                    format!("cannot talk to seine-agent at {}: {error}", socket.display()),
                    "is what listens there seine-agent?",
                )
            })?;
        Ok(Agent { client: CniClient::new(channel), timeout })
    }

    /// Attaches.
    pub async fn add(&mut self, request: v1::AttachRequest) -> Result<v1::Attachment, CniError> {
        let reply = within(self.timeout, self.client.add(request)).await?;
        match reply.answer {
            Some(Answer::Attachment(attachment)) => Ok(attachment),
            Some(Answer::Error(error)) => Err(error.into()),
            None => Err(CniError::new(
                Code::Protocol,
                "seine-agent answered ADD with neither an attachment nor an error",
                "do plugin and agent have the same version?",
            )),
        }
    }

    /// Detaches.
    pub async fn del(&mut self, request: v1::AttachRequest) -> Result<(), CniError> {
        done(within(self.timeout, self.client.del(request)).await?)
    }

    /// Compares what is there with what ADD made.
    pub async fn check(&mut self, request: v1::CheckRequest) -> Result<(), CniError> {
        done(within(self.timeout, self.client.check(request)).await?)
    }

    /// Asks whether ADD can succeed now.
    pub async fn status(&mut self) -> Result<(), CniError> {
        done(within(self.timeout, self.client.status(v1::StatusRequest {})).await?)
    }
}

fn done(reply: v1::Reply) -> Result<(), CniError> {
    reply.error.map_or(Ok(()), |error| Err(error.into()))
}

async fn within<T>(
    timeout: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, CniError> {
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(failed(&status)),
        Err(_) => Err(CniError::new(
            Code::TryAgainLater,
            format!("no answer from seine-agent within {} s", timeout.as_secs()),
            "see the agent's log; \"timeoutSeconds\" of the network configuration sets the limit",
        )),
    }
}

/// The agent's own errors come as answers, so a status is about the conversation.
fn failed(status: &tonic::Status) -> CniError {
    use tonic::Code::{Cancelled, DeadlineExceeded, ResourceExhausted, Unavailable, Unknown};
    let what = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Unavailable | Unknown | Cancelled | DeadlineExceeded | ResourceExhausted => CniError::new(
            Code::TryAgainLater,
            format!("the call to seine-agent broke off ({what})"),
            "it may be restarting; the runtime tries again",
        ),
        _ => CniError::new(
            Code::Protocol,
            format!("seine-agent refused the call ({what})"),
            "do plugin and agent have the same version?",
        ),
    }
}
