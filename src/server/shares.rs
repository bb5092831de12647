//! A fixed number of something. One address may have only a part of it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Who counts as one client: an IPv4 address, or the network of an IPv6 address: one customer has all its 2^64 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Peer(IpAddr);

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// What there is, and who has it.
#[derive(Debug)]
pub(super) struct Shares {
    all: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    sum: usize,
    by: BTreeMap<Peer, usize>,
}

impl Shares {
    /// `all` of something, and at most `each` of it for one client.
    pub(super) fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { all, each, taken: Mutex::default() })
    }

    /// An empty share of `peer`.
    pub(super) const fn of(self: Arc<Self>, peer: Peer) -> Share {
        Share { shares: self, peer, amount: 0 }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one client has. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Share {
    shares: Arc<Shares>,
    peer: Peer,
    amount: usize,
}

impl Share {
    /// Takes `amount` more.
    ///
    /// # Errors
    /// The limit that is reached. Then nothing was taken.
    pub(super) fn take(&mut self, amount: usize) -> Result<(), usize> {
        let (all, each) = (self.shares.all, self.shares.each);
        let mut taken = self.shares.taken();
        let own = taken.by.get(&self.peer).copied().unwrap_or_default();
        if own + amount > each {
            return Err(each);
        }
        if taken.sum + amount > all {
            return Err(all);
        }
        taken.sum += amount;
        taken.by.insert(self.peer, own + amount);
        drop(taken);
        self.amount += amount;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.sum -= self.amount;
        if let Some(own) = taken.by.get_mut(&self.peer) {
            *own -= self.amount;
            if *own == 0 {
                taken.by.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::from(address.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn one_client_cannot_have_everything() {
        let shares = Shares::new(10, 6);
        let (mut a, mut b) = (shares.clone().of(peer("10.0.0.1")), shares.clone().of(peer("10.0.0.2")));
        a.take(5).unwrap();
        assert_eq!(a.take(2), Err(6));
        // Another connection of the same client.
        let mut also_a = shares.clone().of(peer("10.0.0.1"));
        also_a.take(1).unwrap();
        assert_eq!(also_a.take(1), Err(6));
        b.take(4).unwrap();
        assert_eq!(b.take(1), Err(10));
        drop(a);
        b.take(2).unwrap();
        drop((b, also_a));
        assert!(shares.taken().by.is_empty() && shares.taken().sum == 0);
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        assert_eq!(peer("2001:db8:0:1::1"), peer("2001:db8:0:1:ffff::2"));
        assert_ne!(peer("2001:db8:0:1::1"), peer("2001:db8:0:2::1"));
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
        assert_ne!(peer("10.0.0.1"), peer("10.0.0.2"));
    }
}
