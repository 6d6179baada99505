//! Links of the node, seldom asked: of what kind one is, and how to delete it.
//!
//! Only at start and removal, so each call brings its own short-lived netlink socket, opened in the
//! network namespace of the calling thread.

use std::future::Future;
use std::io;

use futures::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

/// What kind of device a link is ("tun", "veth"); `None` for a NIC. Not there: an error.
pub fn kind(name: &str) -> io::Result<Option<String>> {
    let link = with_netlink(async |handle| find(&handle, name).await)?;
    let link = link.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let infos = link.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    Ok(infos.into_iter().flatten().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind_name(&kind)),
        _ => None,
    }))
}

/// Deletes a link. One that is not there is a success.
pub fn delete(name: &str) -> io::Result<()> {
    with_netlink(async |handle| {
        let Some(link) = find(&handle, name).await? else { return Ok(()) };
        handle.link().del(link.header.index).execute().await.map_err(io_error)
    })
}

async fn find(handle: &Handle, name: &str) -> io::Result<Option<LinkMessage>> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(link) => Ok(link),
        Err(error) => match io_error(error) {
            error if error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32) => Ok(None),
            error => Err(error),
        },
    }
}

fn kind_name(kind: &InfoKind) -> String {
    kind.to_string()
}

fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

/// Runs on a thread of its own: the caller may be within a runtime. The thread is in the caller's
/// network namespace.
fn with_netlink<T: Send, F: Future<Output = io::Result<T>>>(
    question: impl FnOnce(Handle) -> F + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection()?;
                tokio::spawn(connection);
                question(handle).await
            })
        });
        asker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_no_kind_and_a_link_that_is_not_there_is_an_error() {
        assert_eq!(kind("lo").expect("lo"), None);
        let error = kind("seine-nobody").expect_err("there is none");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn deleting_a_link_that_is_not_there_is_a_success() {
        delete("seine-nobody").expect("nothing to do");
    }
}
