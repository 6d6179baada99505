//! The datapath's calls, each within a time, and what their errors mean.

use std::time::Duration;

use seine_datapath_api::v1;

use super::{Connection, SessionError};

/// A datapath that does not answer within this is taken for dead, and the session starts again.
/// Publishing takes milliseconds; seconds mean a stuck worker.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn open_port(
    mut connection: Connection,
    port: v1::OpenPortRequest,
) -> Result<v1::Port, SessionError> {
    let action = format!("open the port {}", port.name);
    let request = v1::OpenPortRequest { session: connection.session, ..port };
    timed(&action, connection.client.open_port(request)).await
}

pub(super) async fn lend_sockets(
    mut connection: Connection,
    loan: v1::LendSocketsRequest,
) -> Result<(), SessionError> {
    let action = format!("lend sockets on the port {}", loan.name);
    let request = v1::LendSocketsRequest { session: connection.session, ..loan };
    timed(&action, connection.client.lend_sockets(request)).await.map(|_| ())
}

pub(super) async fn close_port(mut connection: Connection, name: &str) -> Result<(), SessionError> {
    let request = v1::ClosePortRequest { session: connection.session, name: name.into() };
    timed(&format!("close the port {name}"), connection.client.close_port(request))
        .await
        .map(|_| ())
}

/// Waits for an answer, but not for ever, and tells refusals from a datapath that is gone.
pub(super) async fn timed<T>(
    action: &str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, SessionError> {
    timed_within(CALL_TIMEOUT, action, call).await
}

pub(super) async fn timed_within<T>(
    limit: Duration,
    action: &str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, SessionError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => match status.code() {
            tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::Unknown => {
                Err(SessionError::Away(format!("cannot {action}: {}", status.message())))
            }
            code => Err(SessionError::Refused {
                action: action.into(),
                message: status.message().into(),
                code,
            }),
        },
        Err(_) => {
            Err(SessionError::Away(format!("no answer within {} s to: {action}", limit.as_secs())))
        }
    }
}
