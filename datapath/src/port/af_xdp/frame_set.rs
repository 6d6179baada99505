//! Which frames the kernel holds: one bit a frame, so that what a ring returns can be checked.

/// Which frames the kernel holds.
pub(super) struct FrameSet {
    words: Vec<u64>,
    count: u32,
}

impl FrameSet {
    pub fn new(frames: usize) -> FrameSet {
        FrameSet { words: vec![0; frames.div_ceil(64)], count: 0 }
    }

    pub fn insert(&mut self, index: u32) {
        let (word, bit) = (index as usize / 64, 1 << (index % 64));
        assert!(self.words[word] & bit == 0, "frame {index} was posted twice");
        self.words[word] |= bit;
        self.count += 1;
    }

    pub fn len(&self) -> u32 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// `false` when it was not in the set.
    pub fn remove(&mut self, index: u32) -> bool {
        let bit = 1 << (index % 64);
        match self.words.get_mut(index as usize / 64) {
            Some(word) if *word & bit != 0 => {
                *word &= !bit;
                self.count -= 1;
                true
            }
            _ => false,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let indexes = |(at, &word): (usize, &u64)| {
            (0..64u32).filter(move |bit| word >> bit & 1 != 0).map(move |bit| at as u32 * 64 + bit)
        };
        self.words.iter().enumerate().flat_map(indexes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The oracle is the standard library's set.
        #[test]
        fn a_frame_set_is_a_set(
            steps in prop::collection::vec((any::<bool>(), 0u32..200), 0..400),
        ) {
            let mut frames = FrameSet::new(200);
            let mut oracle = std::collections::BTreeSet::new();
            for (insert, index) in steps {
                if !insert {
                    prop_assert_eq!(frames.remove(index), oracle.remove(&index));
                } else if oracle.insert(index) {
                    frames.insert(index);
                }
                prop_assert_eq!(frames.len() as usize, oracle.len());
            }
            prop_assert!(frames.iter().eq(oracle.iter().copied()));
            prop_assert!(!frames.remove(100_000));
        }
    }
}
