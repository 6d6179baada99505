//! How many descriptors the process may have: as many as it was allowed.
//!
//! A queue, a kick, a call and what makes it never wait is a descriptor each, so a guest with
//! sixteen pairs of rings has a hundred, and ten such guests had all that a process begins with:
//! nobody else's port could be opened then. A process begins with few for the sake of `select`,
//! which nobody here calls.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of descriptors to the most that the process may have; says how many these are.
pub fn allow_all() -> io::Result<u64> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(most)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::fs::File;
    use std::process::Command;

    use super::*;

    const FEW: u64 = 64;
    const PROCESS: &str = "SEINE_TEST_DESCRIPTORS";

    /// Not a test of its own: what the next one runs as a process.
    #[test]
    fn process_that_opens_many() {
        if std::env::var_os(PROCESS).is_none() {
            return;
        }
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, FEW, most).unwrap();
        let open = || (0..2 * FEW).map(|_| File::open("/dev/null")).collect::<Result<Vec<_>, _>>();
        assert!(open().is_err(), "too many for what it began with");
        assert_eq!(allow_all().unwrap(), most);
        assert!(open().is_ok());
    }

    #[test]
    fn a_process_has_all_the_descriptors_that_it_may_have() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "descriptors::tests::process_that_opens_many"])
            .env(PROCESS, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}
