//! How many connections are open, in all and from each address.
//!
//! Owns: [`Admission`], and the counts. Must not know: sockets, what a connection is used for.
//!
//! An address is counted only while it has a connection, so that there are never more counts than connections. The
//! counts lie in shards, each behind a lock that is held for one step in a map.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::throttle::Block;

/// How many connections there may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// In all.
    pub connections: usize,
    /// From one address; from one /64 of IPv6.
    pub per_address: usize,
    /// Proxies of ours. Their connections are not counted by address, since everybody stands behind it.
    pub proxies: Vec<IpNet>,
}

/// Why there is no room for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Full {
    /// Because of all the others.
    #[error("as many connections are open as there may be")]
    Everywhere,
    /// Because of others from its address.
    #[error("as many connections are open from its address as there may be")]
    Address,
}

/// Lets connections in while there is room. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Counts>);

/// More than there are threads.
const SHARDS: usize = 32;

#[derive(Debug)]
struct Counts {
    settings: Settings,
    open: AtomicUsize,
    by_address: [Mutex<HashMap<Block, usize>>; SHARDS],
    hasher: RandomState,
}

/// A connection that was let in; it counts until this is dropped.
#[derive(Debug)]
#[must_use = "the connection stops counting when this is dropped"]
pub struct Admitted {
    counts: Arc<Counts>,
    block: Option<Block>,
}

impl Admission {
    /// With nothing open.
    pub fn new(settings: Settings) -> Admission {
        Admission(Arc::new(Counts {
            settings,
            open: AtomicUsize::new(0),
            by_address: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }))
    }

    /// Lets a connection in. Who is behind it may not be known yet; [`Admitted::comes_from`] counts it for them.
    ///
    /// # Errors
    ///
    /// [`Full::Everywhere`].
    pub fn admit(&self) -> Result<Admitted, Full> {
        let most = self.0.settings.connections;
        let room = |open: usize| (open < most).then_some(open + 1);
        match self.0.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, room) {
            Ok(_) => Ok(Admitted { counts: self.0.clone(), block: None }),
            Err(_) => Err(Full::Everywhere),
        }
    }

    /// Whether `address` is a proxy of ours.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.0.is_proxy(address)
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::Acquire)
    }
}

impl Admitted {
    /// Counts the connection for `address`, once. Proxies of ours are not counted.
    ///
    /// # Errors
    ///
    /// [`Full::Address`]: it is to be closed.
    pub fn comes_from(&mut self, address: IpAddr) -> Result<(), Full> {
        if self.block.is_some() || self.counts.is_proxy(address) {
            return Ok(());
        }
        let block = Block::of(address);
        let most = self.counts.settings.per_address;
        let mut shard = self.counts.shard(block);
        let open = shard.entry(block).or_insert(0);
        if *open >= most {
            return Err(Full::Address);
        }
        *open += 1;
        drop(shard);
        self.block = Some(block);
        Ok(())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(block) = self.block
            && let Entry::Occupied(mut open) = self.counts.shard(block).entry(block)
        {
            match *open.get() {
                0 | 1 => {
                    open.remove();
                }
                more => *open.get_mut() = more - 1,
            }
        }
        self.counts.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Counts {
    fn is_proxy(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.settings.proxies.iter().any(|net| net.contains(&address))
    }

    fn shard(&self, block: Block) -> MutexGuard<'_, HashMap<Block, usize>> {
        let at = usize::try_from(self.hasher.hash_one(block) % SHARDS as u64).unwrap_or(0);
        // Nothing panics while it is held.
        self.by_address[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::AddrParseError;

    use super::*;

    fn admission(connections: usize, per_address: usize) -> Result<Admission, ipnet::AddrParseError> {
        Ok(Admission::new(Settings { connections, per_address, proxies: vec!["10.0.0.0/8".parse()?] }))
    }

    fn from(admission: &Admission, address: IpAddr) -> Result<Admitted, Full> {
        let mut admitted = admission.admit()?;
        admitted.comes_from(address)?;
        Ok(admitted)
    }

    fn addresses(admission: &Admission) -> usize {
        let shards = admission.0.by_address.iter();
        shards.map(|shard| shard.lock().map_or(usize::MAX, |shard| shard.len())).sum()
    }

    fn ip(text: &str) -> Result<IpAddr, AddrParseError> {
        text.parse()
    }

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn there_is_room_for_so_many_and_again_when_one_goes() -> Outcome {
        let admission = admission(2, 2)?;
        let one = from(&admission, ip("192.0.2.1")?)?;
        let other = from(&admission, ip("192.0.2.2")?)?;
        assert_eq!(from(&admission, ip("192.0.2.3")?).err(), Some(Full::Everywhere));
        assert_eq!(admission.open(), 2);
        drop(one);
        let next = from(&admission, ip("192.0.2.3")?)?;
        assert_eq!(admission.admit().err(), Some(Full::Everywhere));
        drop((other, next));
        assert_eq!((admission.open(), addresses(&admission)), (0, 0));
        Ok(())
    }

    #[test]
    fn an_address_has_its_share_and_takes_nobody_elses() -> Outcome {
        let admission = admission(100, 2)?;
        let kept = [from(&admission, ip("192.0.2.1")?)?, from(&admission, ip("::ffff:192.0.2.1")?)?];
        assert_eq!(from(&admission, ip("192.0.2.1")?).err(), Some(Full::Address));
        let neighbour = from(&admission, ip("192.0.2.2")?)?;
        // Whoever has one address of IPv6 has all of its /64.
        let house =
            [from(&admission, ip("2001:db8:1:2::1")?)?, from(&admission, ip("2001:db8:1:2:ffff::1")?)?];
        assert_eq!(from(&admission, ip("2001:db8:1:2::3")?).err(), Some(Full::Address));
        let next_door = from(&admission, ip("2001:db8:1:3::1")?)?;
        assert_eq!(admission.open(), 6);
        drop(kept);
        let again = from(&admission, ip("192.0.2.1")?)?;
        drop((neighbour, house, next_door, again));
        assert_eq!((admission.open(), addresses(&admission)), (0, 0));
        Ok(())
    }

    #[test]
    fn proxies_of_ours_have_as_many_as_there_are() -> Outcome {
        let admission = admission(5, 1)?;
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(from(&admission, ip("10.1.2.3")?)?);
        }
        open.push(from(&admission, ip("::ffff:10.1.2.3")?)?);
        assert_eq!(addresses(&admission), 0);
        assert_eq!(from(&admission, ip("10.1.2.3")?).err(), Some(Full::Everywhere));
        Ok(())
    }

    #[test]
    fn a_connection_whose_address_comes_later_counts_for_it_once() -> Outcome {
        let admission = admission(10, 1)?;
        let mut one = admission.admit()?;
        assert_eq!(one.comes_from(ip("192.0.2.1")?), Ok(()));
        assert_eq!(one.comes_from(ip("192.0.2.1")?), Ok(()));
        let mut other = admission.admit()?;
        assert_eq!(other.comes_from(ip("192.0.2.1")?), Err(Full::Address));
        drop(other);
        assert_eq!((admission.open(), addresses(&admission)), (1, 1));
        drop(one);
        assert_eq!((admission.open(), addresses(&admission)), (0, 0));
        Ok(())
    }

    #[test]
    fn counts_are_right_under_many_threads() -> Outcome {
        let admission = admission(64, 8)?;
        std::thread::scope(|scope| {
            for thread in 0..8_u8 {
                let admission = admission.clone();
                scope.spawn(move || {
                    for round in 0..2_000_u16 {
                        let address = IpAddr::from([192, 0, 2, (round % 5) as u8 + thread % 2]);
                        let held = [from(&admission, address), from(&admission, address)];
                        assert!(admission.open() <= 64);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!((admission.open(), addresses(&admission)), (0, 0));
        Ok(())
    }
}
