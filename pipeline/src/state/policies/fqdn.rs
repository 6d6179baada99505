//! Which groups are for a name: "db.example.com", or "*.example.com" and others of its kind.

use std::sync::Arc;

use super::group::GroupId;
use crate::table::Exact;

/// Names and patterns of all groups, in lower case.
#[derive(Clone, Debug)]
pub(super) struct Names {
    exact: Exact<Arc<[u8]>, Arc<[GroupId]>>,
    /// Those with an asterisk, which stands for any characters, dots among them.
    patterns: Arc<[(Arc<[u8]>, GroupId)]>,
}

impl Names {
    pub(super) fn new(seed: u64) -> Names {
        Names { exact: Exact::new(seed), patterns: Arc::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.patterns.is_empty()
    }

    pub(super) fn patterns(&self) -> usize {
        self.patterns.len()
    }

    pub(super) fn add(&mut self, name: &str, group: GroupId) {
        let name = normal(name);
        if name.contains(&b'*') {
            let known = self.patterns.iter().cloned();
            self.patterns = known.chain([(name, group)]).collect();
        } else {
            let known = self.exact.get(&name).cloned().unwrap_or_default();
            let set = known.iter().copied().filter(|it| *it != group).chain([group]).collect();
            self.exact.insert(name, set);
        }
    }

    /// Takes all names of a group out; these are they.
    pub(super) fn remove(&mut self, names: &[String], group: GroupId) {
        for name in names.iter().map(|name| normal(name)) {
            let Some(known) = self.exact.get(&name) else { continue };
            let set: Arc<[GroupId]> = known.iter().copied().filter(|it| *it != group).collect();
            match set.is_empty() {
                true => drop(self.exact.remove(&name)),
                false => drop(self.exact.insert(name, set)),
            }
        }
        if self.patterns.iter().any(|(_, it)| *it == group) {
            let kept = self.patterns.iter().filter(|(_, it)| *it != group);
            self.patterns = kept.cloned().collect();
        }
    }

    /// The groups that a name, in lower case, is for, of those that are wanted.
    pub(super) fn groups(
        &self,
        name: &[u8],
        wanted: impl Fn(GroupId) -> bool + Copy,
    ) -> impl Iterator<Item = GroupId> {
        let exact = self.exact.get(name).into_iter().flat_map(|set| set.iter().copied());
        let patterns = self.patterns.iter().filter(move |(_, group)| wanted(*group));
        let matching = patterns.filter(move |(pattern, _)| matches(pattern, name));
        exact.filter(move |group| wanted(*group)).chain(matching.map(|(_, group)| *group))
    }
}

fn normal(name: &str) -> Arc<[u8]> {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.bytes().map(|byte| byte.to_ascii_lowercase()).collect()
}

/// Whether a pattern, whose asterisks stand for anything, is for the whole name.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // Most patterns end in what most names do not.
    let tail = pattern.rsplit(|byte| *byte == b'*').next().unwrap_or_default();
    if !name.ends_with(tail) {
        return false;
    }
    let (mut pattern, mut name) = (pattern, name);
    // Behind the last asterisk met, and what it has not taken yet.
    let mut asterisk: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, name) {
            ([b'*', behind @ ..], _) => {
                asterisk = Some((behind, name));
                pattern = behind;
            }
            ([one, behind @ ..], [other, rest @ ..]) if one == other => {
                (pattern, name) = (behind, rest);
            }
            ([], []) => return true,
            _ => {
                let Some((behind, [_, rest @ ..])) = asterisk else { return false };
                asterisk = Some((behind, rest));
                (pattern, name) = (behind, rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asterisk_stands_for_anything_and_nothing_else_does() {
        let cases = [
            ("*.example.com", "www.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "www.example.com.evil.org", false),
            ("*github.com", "github.com", true),
            ("*github.com", "api.github.com", true),
            ("*github.com", "notgithub.com", true),
            ("www.*.com", "www.example.com", true),
            ("www.*.com", "www..com", true),
            ("www.*.com", "www.com", false),
            ("*a*b", "aab", true),
            ("*a*b", "aba", false),
            ("*", "anything.at.all", true),
            ("a.com", "axcom", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_name_has_the_groups_of_its_own_and_of_all_patterns_until_they_are_gone() {
        let mut names = Names::new(1);
        names.add("Www.Example.com.", GroupId(1));
        names.add("*.example.com", GroupId(2));
        names.add("www.example.com", GroupId(3));
        names.add("www.example.com", GroupId(4));
        names.add("*.example.com", GroupId(4));
        let groups = |names: &Names, name: &str| {
            let mut groups: Vec<u32> =
                names.groups(name.as_bytes(), |it| it.0 != 4).map(|it| it.0).collect();
            groups.sort_unstable();
            groups
        };
        assert_eq!(groups(&names, "www.example.com"), [1, 2, 3]);
        assert_eq!(groups(&names, "ftp.example.com"), [2]);
        names.remove(&["Www.Example.com.".to_owned()], GroupId(1));
        names.remove(&["*.example.com".to_owned()], GroupId(2));
        assert_eq!(groups(&names, "www.example.com"), [3]);
        names.remove(&["www.example.com".to_owned()], GroupId(3));
        names.remove(&["www.example.com".to_owned(), "*.example.com".to_owned()], GroupId(4));
        assert!(names.is_empty());
    }
}
