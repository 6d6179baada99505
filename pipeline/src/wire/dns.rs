//! DNS responses (RFC 1035), as far as it takes to learn whose addresses they tell.
//!
//! Names are read with a bound on their compression pointers, so a loop of them ends.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::{bytes_at, u16_at};

/// The port of DNS servers.
pub const PORT: u16 = 53;
/// Longest name, in text and without the last dot (RFC 1035 section 2.3.4).
pub const NAME_MAX: usize = 253;
/// Addresses of one response that are read: a datagram of the 1232 bytes that resolvers ask for has
/// room for few more.
pub const ADDRESSES_MAX: usize = 64;

/// Bytes of a message's header.
const HEADER: usize = 12;
/// Records that are looked at.
const RECORDS_MAX: u16 = ADDRESSES_MAX as u16;
/// Names that are read of one answer: each of its records once, and once more where aliases stand
/// in another order than that in which they lead on.
const NAMES_MAX: usize = 2 * RECORDS_MAX as usize;
/// Aliases that are followed from one name to the next.
const ALIASES_MAX: usize = 8;
/// Compression pointers that are followed within one name.
const POINTERS_MAX: usize = 16;

const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;
const CLASS_INTERNET: u16 = 1;

/// A name in lower case, its labels parted by dots.
pub type Name = ArrayVec<u8, NAME_MAX>;

/// Addresses, and for how many seconds each may be used.
pub type Addresses = ArrayVec<(IpAddr, u32), ADDRESSES_MAX>;

/// An answer to one question about a name of the Internet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer<'a> {
    /// The name that was asked for.
    pub name: Name,
    message: &'a [u8],
    /// Where its records begin.
    records: usize,
}

impl<'a> Answer<'a> {
    /// Reads whose addresses a whole message tells, and no further. `None` when it is not an
    /// answer, or cannot be read.
    pub fn parse(message: &'a [u8]) -> Option<Answer<'a>> {
        let [_, _, flags, code, ..] = *message.first_chunk::<HEADER>()?;
        let standard = flags & 0b1111_1000 == 0b1000_0000;
        if !standard || code & 0x0f != 0 || u16_at(message, 4)? != 1 {
            return None;
        }
        let (name, end) = name_at(message, HEADER)?;
        let internet = u16_at(message, end + 2)? == CLASS_INTERNET;
        internet.then_some(Answer { name, message, records: end + 4 })
    }

    /// The addresses, also by way of aliases. `None` when they cannot be read within the limits
    /// above.
    pub fn addresses(&self) -> Option<Addresses> {
        let (mut owner, mut ttl_min) = (self.name.clone(), u32::MAX);
        let (mut addresses, mut aliases) = (Addresses::new(), 0);
        let count = usize::from(u16_at(self.message, 6)?.min(RECORDS_MAX));
        for _ in 0..NAMES_MAX / count.max(1) {
            let (mut offset, known) = (self.records, aliases);
            for _ in 0..count {
                let record = Record::at(self.message, offset)?;
                offset = record.end;
                if record.owner != owner {
                    continue;
                }
                let ttl = record.ttl.min(ttl_min);
                match record.read(self.message) {
                    Data::Address(address) => drop(addresses.try_push((address, ttl))),
                    Data::Alias if addresses.is_empty() => {
                        aliases += 1;
                        (owner, ttl_min) = (name_at(self.message, record.data)?.0, ttl);
                    }
                    Data::Alias | Data::Other => {}
                }
                if aliases > ALIASES_MAX {
                    return None;
                }
            }
            // What comes before the last alias met was passed by while another name was looked for.
            if aliases == known || !addresses.is_empty() {
                return Some(addresses);
            }
        }
        None
    }
}

/// One record of an answer.
struct Record {
    owner: Name,
    kind: u16,
    class: u16,
    ttl: u32,
    data: usize,
    end: usize,
}

enum Data {
    Address(IpAddr),
    Alias,
    Other,
}

impl Record {
    fn at(message: &[u8], offset: usize) -> Option<Record> {
        let (owner, fixed) = name_at(message, offset)?;
        let data = fixed + 10;
        let end = data + usize::from(u16_at(message, fixed + 8)?);
        // RFC 2181 section 8: a TTL with its highest bit set counts as zero.
        let ttl = u32::from_be_bytes(bytes_at(message, fixed + 4)?);
        let ttl = if ttl >> 31 == 1 { 0 } else { ttl };
        let (kind, class) = (u16_at(message, fixed)?, u16_at(message, fixed + 2)?);
        (end <= message.len()).then_some(Record { owner, kind, class, ttl, data, end })
    }

    fn read(&self, message: &[u8]) -> Data {
        let read = || match (self.kind, self.class, self.end - self.data) {
            (TYPE_A, CLASS_INTERNET, 4) => {
                Some(Data::Address(bytes_at::<4>(message, self.data)?.into()))
            }
            (TYPE_AAAA, CLASS_INTERNET, 16) => {
                Some(Data::Address(bytes_at::<16>(message, self.data)?.into()))
            }
            (TYPE_CNAME, CLASS_INTERNET, _) => Some(Data::Alias),
            _ => None,
        };
        read().unwrap_or(Data::Other)
    }
}

/// The name at an offset, and what follows it there.
fn name_at(message: &[u8], mut offset: usize) -> Option<(Name, usize)> {
    let (mut name, mut end, mut pointers) = (Name::new(), None, 0);
    loop {
        let length = usize::from(*message.get(offset)?);
        match length >> 6 {
            0 if length == 0 => return Some((name, end.unwrap_or(offset + 1))),
            0 => {
                let label = message.get(offset + 1..offset + 1 + length)?;
                if !name.is_empty() {
                    name.try_push(b'.').ok()?;
                }
                for byte in label {
                    name.try_push(byte.to_ascii_lowercase()).ok()?;
                }
                offset += 1 + length;
            }
            3 => {
                end = end.or(Some(offset + 2));
                pointers += 1;
                offset = usize::from(u16_at(message, offset)? & 0x3fff);
                if pointers > POINTERS_MAX {
                    return None;
                }
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn labels(name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in name.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes
    }

    fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = owner.to_vec();
        bytes.extend(kind.to_be_bytes());
        bytes.extend(1u16.to_be_bytes());
        bytes.extend(ttl.to_be_bytes());
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
        bytes
    }

    fn message(question: &str, records: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, records.len() as u8, 0, 0, 0, 0];
        bytes.extend(labels(question));
        bytes.extend([0, 1, 0, 1]);
        bytes.extend(records.concat());
        bytes
    }

    fn parsed(message: &[u8]) -> Option<(String, Vec<(String, u32)>)> {
        let answer = Answer::parse(message)?;
        let addresses = answer.addresses()?;
        let addresses = addresses.iter().map(|(it, ttl)| (it.to_string(), *ttl)).collect();
        Some((String::from_utf8(answer.name.to_vec()).unwrap(), addresses))
    }

    const QUESTION: [u8; 2] = [0xc0, 12];

    #[test]
    fn addresses_belong_to_the_name_that_was_asked_for() {
        let records = [
            record(&QUESTION, TYPE_A, 300, &[203, 0, 113, 9]),
            record(&labels("other.com"), TYPE_A, 300, &[203, 0, 113, 10]),
            record(&QUESTION, TYPE_AAAA, 30, &[0x20, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]),
        ];
        let expected = vec![("203.0.113.9".to_owned(), 300), ("2001::9".to_owned(), 30)];
        let expected = Some(("www.example.com".to_owned(), expected));
        assert_eq!(parsed(&message("WWW.Example.com", &records)), expected);
    }

    #[test]
    fn aliases_are_followed_in_any_order_and_the_shortest_time_counts() {
        let records = [
            record(&labels("c.net"), TYPE_A, 300, &[203, 0, 113, 9]),
            record(&labels("b.net"), TYPE_CNAME, 60, &labels("c.net")),
            record(&QUESTION, TYPE_CNAME, 100, &labels("b.net")),
        ];
        let expected = Some(("a.com".to_owned(), vec![("203.0.113.9".to_owned(), 60)]));
        assert_eq!(parsed(&message("a.com", &records)), expected);
    }

    #[test]
    fn what_a_hostile_server_sends_is_read_at_most_twice() {
        let [many, few] = [63, 7].map(|others| {
            let mut records = vec![record(&labels("c.net"), TYPE_A, 300, &[203, 0, 113, 9])];
            records.push(record(&labels("b.net"), TYPE_CNAME, 60, &labels("c.net")));
            records.push(record(&QUESTION, TYPE_CNAME, 60, &labels("b.net")));
            records.resize(others, record(&labels("other.net"), TYPE_A, 0, &[192, 0, 2, 1]));
            message("a.com", &records)
        });
        assert!(parsed(&few).is_some_and(|(_, addresses)| addresses.len() == 1));
        assert_eq!(parsed(&many), None, "three times 63 names are too many");
        let records: Vec<_> =
            (0..80).map(|last| record(&QUESTION, TYPE_A, 300, &[192, 0, 2, last])).collect();
        let (_, addresses) = parsed(&message("a.com", &records)).unwrap();
        assert_eq!(addresses.len(), ADDRESSES_MAX);
    }

    #[test]
    fn loops_of_aliases_and_of_pointers_end() {
        let records = [
            record(&QUESTION, TYPE_CNAME, 60, &labels("b.net")),
            record(&labels("b.net"), TYPE_CNAME, 60, &QUESTION),
        ];
        assert_eq!(parsed(&message("a.com", &records)), None);
        let mut looping = message("a", &[]);
        looping[12..14].copy_from_slice(&[0xc0, 12]);
        assert_eq!(parsed(&looping), None);
    }

    #[test]
    fn questions_failures_and_fragments_of_messages_teach_nothing() {
        let whole = message("a.com", &[record(&QUESTION, TYPE_A, 300, &[203, 0, 113, 9])]);
        assert!(parsed(&whole).is_some());
        let (_, none) = parsed(&message("a.com", &[])).unwrap();
        assert!(none.is_empty());
        for (offset, value) in [(2, 0x01), (3, 0x83), (5, 2), (5, 0)] {
            let mut other = whole.clone();
            other[offset] = value;
            assert_eq!(parsed(&other), None);
        }
        for end in 0..whole.len() {
            assert_eq!(parsed(&whole[..end]), None);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_there_is_no_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            tail in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            parsed(&bytes);
            let mut likely = message("a.example.com", &[]);
            likely[7] = 3;
            likely.extend(tail);
            parsed(&likely);
        }
    }
}
