//! The gRPC words between `seine-datapath` and those who steer it, generated from
//! `proto/datapath.proto`, which documents them.
//!
//! Both sides meet on a unix socket: [`connect`] is the client's end.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Version 1 of the words.
pub mod v1 {
    #![allow(missing_docs, reason = "generated; the proto file is the documentation")]
    #![allow(clippy::all, reason = "generated")]
    tonic::include_proto!("seine.datapath.v1");
}

/// The version of the words in `Hello`.
pub const VERSION: u32 = 1;

/// Why no connection to a datapath could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach seine-datapath at `{socket}`: is it running, and are you root?")]
pub struct ConnectError {
    /// The path that was tried.
    pub socket: PathBuf,
    /// What the transport said.
    #[source]
    pub source: tonic::transport::Error,
}

/// A client for the datapath that serves `socket`.
pub async fn connect(
    socket: &Path,
) -> Result<v1::datapath_client::DatapathClient<Channel>, ConnectError> {
    let path = socket.to_owned();
    // The authority of a unix socket is its path; the URI is a formality of HTTP/2.
    let channel = Endpoint::from_static("http://seine-datapath")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        }))
        .await
        .map_err(|source| ConnectError { socket: socket.to_owned(), source })?;
    Ok(v1::datapath_client::DatapathClient::new(channel))
}
