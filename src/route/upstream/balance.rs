//! Which of several upstreams is next: arithmetic.
//!
//! Owns: [`schedule`] (round robin by weight), [`Key`] and [`score`] (the same upstream for the same visitor).
//! Must not know: connections, who is well.

use std::net::IpAddr;

use crate::identity::AccountId;

/// The order in which upstreams take turns: places in `weights`, each as often as its weight says (in lowest
/// terms) and spread as evenly as that allows. Empty for no weights. Weights are at least 1.
///
/// The one that is furthest behind its share is next, as in nginx.
pub fn schedule(weights: &[u16]) -> Vec<u16> {
    let shortest = weights.iter().copied().fold(0, greatest_common_divisor);
    if shortest == 0 {
        return Vec::new();
    }
    let weights: Vec<i64> = weights.iter().map(|weight| i64::from(weight / shortest)).collect();
    let all: i64 = weights.iter().sum();
    let mut behind = vec![0_i64; weights.len()];
    (0..all)
        .filter_map(|_| {
            for (own, weight) in behind.iter_mut().zip(&weights) {
                *own += weight;
            }
            let (place, most) = behind.iter_mut().enumerate().rev().max_by_key(|(_, own)| **own)?;
            *most -= all;
            u16::try_from(place).ok()
        })
        .collect()
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// What requests have in common that are to go to the same upstream. The same in every process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key(u64);

impl Key {
    /// All requests of an account.
    pub fn of_account(account: AccountId) -> Key {
        Key(of_bytes(&account.to_bytes()))
    }

    /// All requests from an address. IPv6 counts by its first 64 bits: the rest changes by itself.
    pub fn of_address(address: IpAddr) -> Key {
        match address.to_canonical() {
            IpAddr::V4(v4) => Key(of_bytes(&v4.octets())),
            IpAddr::V6(v6) => Key(of_bytes(&v6.octets()[..8])),
        }
    }
}

/// An upstream as [`score`] knows it, by its address. The same in every process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name(u64);

impl Name {
    /// Of `address` as text.
    pub fn of(address: &str) -> Name {
        Name(of_bytes(address.as_bytes()))
    }
}

/// How much an upstream wants a key: the one with the highest score gets it. (Rendezvous hashing, weighted.)
/// When one goes, only its own keys move, to the others by their weights; when it is back, they come back.
pub fn score(key: Key, name: Name, weight: u16) -> f64 {
    // 53 bits, and never 0 or 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    let chance = ((mixed(key.0 ^ mixed(name.0)) >> 11) as f64 + 0.5) / 9_007_199_254_740_992.0;
    -f64::from(weight) / chance.ln()
}

/// FNV-1a, finished by [`mixed`] so that neighbours are not alike.
fn of_bytes(bytes: &[u8]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325_u64;
    mixed(bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// The finish of SplitMix64.
fn mixed(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn turns_are_spread_evenly_and_add_up_to_the_weights() {
        for (weights, turns) in [
            (&[][..], &[][..]),
            (&[1], &[0]),
            (&[7], &[0]),
            (&[1, 1, 1], &[0, 1, 2]),
            (&[2, 2], &[0, 1]),
            (&[3, 1], &[0, 0, 1, 0]),
            (&[5, 1, 1], &[0, 0, 1, 0, 2, 0, 0]),
            (&[300, 100], &[0, 0, 1, 0]),
        ] {
            assert_eq!(schedule(weights), turns, "{weights:?}");
        }
        let weights = [1, 10, 100, 1000];
        let turns = schedule(&weights);
        for (place, weight) in weights.into_iter().enumerate() {
            let count = turns.iter().filter(|turn| usize::from(**turn) == place).count();
            assert_eq!(count, usize::from(weight));
        }
    }

    fn chosen(key: Key, among: &[(&'static str, u16)]) -> &'static str {
        let best = among
            .iter()
            .max_by(|a, b| score(key, Name::of(a.0), a.1).total_cmp(&score(key, Name::of(b.0), b.1)));
        best.map_or("", |best| best.0)
    }

    fn keys() -> impl Iterator<Item = Key> {
        (0..20_000_u128).map(|n| Key::of_account(AccountId::from_bytes(n.to_be_bytes())))
    }

    #[test]
    fn keys_are_shared_out_by_weight() {
        let among = [("10.0.0.1:80", 1), ("10.0.0.2:80", 2), ("10.0.0.3:80", 1)];
        let mut counts: HashMap<&str, f64> = HashMap::new();
        for key in keys() {
            *counts.entry(chosen(key, &among)).or_default() += 1.0;
        }
        for (name, weight) in among {
            let share = counts[name] / 20_000.0;
            assert!((share - f64::from(weight) / 4.0).abs() < 0.02, "{name}: {share}");
        }
    }

    #[test]
    fn only_the_keys_of_the_one_that_goes_move() {
        let all = [("10.0.0.1:80", 1), ("10.0.0.2:80", 3), ("10.0.0.3:80", 1)];
        for key in keys() {
            let before = chosen(key, &all);
            let after = chosen(key, &all[1..]);
            assert!(before == after || before == all[0].0);
        }
    }

    /// Replicas must agree, and so must this version and the next.
    #[test]
    fn a_key_goes_to_the_same_upstream_for_ever() -> Result<(), Box<dyn std::error::Error>> {
        let account = "{0f3c2a94-6a0f-4c0e-9d5e-3a1f6c5b7e21}".parse()?;
        assert_eq!(Key::of_account(account), Key(8_324_981_477_091_863_479));
        assert_eq!(Name::of("10.0.0.1:8080"), Name(7_025_533_819_731_354_109));
        assert_eq!(Key::of_address("203.0.113.7".parse()?), Key(1_394_695_727_470_472_955));
        Ok(())
    }

    #[test]
    fn an_address_counts_as_the_network_gives_it_out() -> Result<(), Box<dyn std::error::Error>> {
        let key = |text: &str| Ok::<_, std::net::AddrParseError>(Key::of_address(text.parse()?));
        assert_eq!(key("203.0.113.7")?, key("::ffff:203.0.113.7")?);
        assert_ne!(key("203.0.113.7")?, key("203.0.113.8")?);
        assert_eq!(key("2001:db8:0:1::1")?, key("2001:db8:0:1:ffff::2")?);
        assert_ne!(key("2001:db8:0:1::1")?, key("2001:db8:0:2::1")?);
        Ok(())
    }
}
