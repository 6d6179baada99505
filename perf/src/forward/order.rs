//! In which order connections send: drawn before the window, so that drawing costs nothing in it.

use super::profile::{Order, Profile, Ways};

/// Numbers drawn at least: too many for a processor to learn by heart.
const DRAWN_MIN: usize = 1 << 20;

/// SplitMix64: the same seed draws the same numbers everywhere.
pub struct Random(u64);

impl Random {
    /// Begins with this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    fn shuffle(&mut self, numbers: &mut [u32]) {
        for last in (1..numbers.len()).rev() {
            numbers.swap(last, self.below(last + 1));
        }
    }
}

/// Every connection once, as its first packet.
pub fn once(connections: u32, seed: u64) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..connections).map(|it| 2 * it).collect();
    Random::new(seed).shuffle(&mut numbers);
    numbers
}

/// Numbers of packets, each twice that of its connection and one more for a reply. Where both
/// ways are sent, every other packet is a reply.
pub fn draw(profile: &Profile, connections: u32, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    match (profile.order, profile.ways) {
        (order, Ways::One | Ways::Echo) => {
            drawn(order, connections, &mut random).iter().map(|drawn| drawn * 2).collect()
        }
        (order, Ways::Both) => {
            let originals = drawn(order, connections, &mut random);
            let replies = drawn(order, connections, &mut random);
            let pairs = originals.iter().zip(&replies);
            pairs.flat_map(|(original, reply)| [original * 2, reply * 2 + 1]).collect()
        }
    }
}

fn drawn(order: Order, connections: u32, random: &mut Random) -> Vec<u32> {
    match order {
        Order::Uniform => {
            let mut numbers = Vec::new();
            let mut permutation: Vec<u32> = (0..connections).collect();
            while numbers.len() < DRAWN_MIN {
                random.shuffle(&mut permutation);
                numbers.extend(&permutation);
            }
            numbers
        }
        Order::Zipf => {
            // Which connection is the n-th most busy has nothing to do with its addresses.
            let mut ranked: Vec<u32> = (0..connections).collect();
            random.shuffle(&mut ranked);
            let mut sum = 0.0;
            let shares = (1..=ranked.len()).map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            });
            let shares: Vec<f64> = shares.collect();
            let count = DRAWN_MIN.max(2 * ranked.len());
            let draw = |_| {
                let point = random.next() as f64 / 2_f64.powi(64) * sum;
                let rank = shares.partition_point(|share| *share < point);
                ranked.get(rank).or(ranked.last()).copied().unwrap_or_default()
            };
            (0..count).map(draw).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(order: Order, connections: u32) -> Vec<usize> {
        let mut counts = vec![0; connections as usize];
        for number in drawn(order, connections, &mut Random::new(7)) {
            counts[number as usize] += 1;
        }
        counts.sort_unstable();
        counts
    }

    #[test]
    fn uniform_order_is_fair_to_the_last_packet() {
        let counts = counts(Order::Uniform, 3000);
        assert_eq!(counts.first(), counts.last());
    }

    #[test]
    fn in_zipfs_order_the_second_sends_half_of_the_first() {
        let counts = counts(Order::Zipf, 1000);
        let ratio = counts[999] as f64 / counts[998] as f64;
        assert!((1.9..2.1).contains(&ratio), "{ratio}");
        assert!(counts[0] > 0);
    }
}
