//! Ranges of VLANs, as annotations and configurations write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The last VLAN that there can be: 4095 is reserved, and 0 stands for none.
const LAST: u16 = 4094;

/// VLANs, from one to another: "100", "200-203".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct VlanRange {
    first: u16,
    last: u16,
}

/// A configuration may leave the quotes of a single one out.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u16),
    Text(String),
}

/// Why something is no range of VLANs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no VLAN; one looks like 100, a range like 200-203, within 1 to {LAST}")]
pub struct VlanError(String);

impl VlanRange {
    /// The first.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether all of the other are among these.
    pub fn holds(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

impl FromStr for VlanRange {
    type Err = VlanError;

    fn from_str(text: &str) -> Result<Self, VlanError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.trim().parse().ok().filter(|it| (1..=LAST).contains(it));
        let range = number(first).zip(number(last)).filter(|(first, last)| first <= last);
        let (first, last) = range.ok_or_else(|| VlanError(text.into()))?;
        Ok(Self { first, last })
    }
}

impl TryFrom<Written> for VlanRange {
    type Error = VlanError;

    fn try_from(written: Written) -> Result<Self, VlanError> {
        match written {
            Written::Number(number) => number.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<VlanRange> for String {
    fn from(range: VlanRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for VlanRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn ranges_are_read_as_they_are_shown() {
        for text in ["1", "100", "200-203", "1-4094"] {
            let range: VlanRange = text.parse().unwrap();
            assert_eq!(range.to_string(), text);
            let kept = serde_json::to_string(&range).unwrap();
            assert_eq!(serde_json::from_str::<VlanRange>(&kept).unwrap(), range);
        }
        assert_eq!("7-7".parse::<VlanRange>().unwrap().to_string(), "7");
        assert_eq!(serde_json::from_str::<VlanRange>("5").unwrap().to_string(), "5");
        for wrong in ["", "0", "4095", "70000", "-1", "5-4", "1-2-3", "a", "1-"] {
            assert!(wrong.parse::<VlanRange>().is_err(), "{wrong}");
        }
    }
}
