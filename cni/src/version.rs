//! The versions of CNI that are served, and what differs between them.

use std::fmt;

use crate::{CniError, Code, Command};

/// A version of the CNI specification that this plugin serves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SpecVersion {
    /// 0.3.0: as 0.3.1.
    V0_3_0,
    /// 0.3.1: results name interfaces; addresses carry their family.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: addresses no longer carry their family.
    V1_0_0,
    /// 1.1.0: STATUS and GC; interfaces carry their MTU.
    V1_1_0,
}

impl SpecVersion {
    /// All that are served, oldest first.
    pub const ALL: [SpecVersion; 5] =
        [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest one served.
    pub const NEWEST: SpecVersion = Self::V1_1_0;

    /// As the configuration writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version of that name, if it is served.
    pub fn parse(name: &str) -> Result<SpecVersion, CniError> {
        Self::ALL.into_iter().find(|version| version.name() == name).ok_or_else(|| {
            CniError::new(
                Code::IncompatibleVersion,
                format!("incompatible CNI versions: the configuration has `{name}`"),
                format!("set \"cniVersion\" to one of {}", Self::names().join(", ")),
            )
        })
    }

    /// The names of all versions served, oldest first.
    pub fn names() -> [&'static str; 5] {
        Self::ALL.map(Self::name)
    }

    /// Refuses a verb that this version of CNI does not have.
    pub fn allow(self, command: Command) -> Result<(), CniError> {
        let since = match command {
            Command::Check => Self::V0_4_0,
            Command::Status | Command::Gc => Self::V1_1_0,
            Command::Add | Command::Del | Command::Version => Self::V0_3_0,
        };
        if self >= since {
            return Ok(());
        }
        Err(CniError::new(
            Code::IncompatibleVersion,
            format!("config version does not allow {command}: it is {self}"),
            format!("{command} exists since CNI {since}"),
        ))
    }

    /// Before 1.0.0 every address of a result says whether it is of version 4 or 6.
    pub fn addresses_name_their_family(self) -> bool {
        self < Self::V1_0_0
    }

    /// Since 1.1.0 an interface of a result has an MTU, and may be a socket.
    pub fn interfaces_have_mtu(self) -> bool {
        self >= Self::V1_1_0
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
