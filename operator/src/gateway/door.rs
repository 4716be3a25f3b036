//! Who may come in now: how often, and how many at once, connections and joins may come from one source and from all.
//!
//! Memory does not grow with the number of sources: each counts in a place that a keyed hash of its address picks. Sources
//! that share a place share its limit; nobody who does not know the key can choose whom he shares with.

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Places that sources are spread over; a number of 8 bytes each.
const PLACES: usize = 1 << 16;
/// How many seconds' worth of handshakes may come at once.
const HANDSHAKE_BURST: u32 = 10;
/// How many handshakes of one source run at once.
const HANDSHAKES_OF_SOURCE: u32 = 256;

/// What is wanted at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A TLS connection.
    Handshake,
    /// To join, or a certificate for a key that has joined.
    Join,
}

/// Why somebody may not come in now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Too many from this source lately.
    Source,
    /// Too many from this source that are not done.
    SourceAtOnce,
    /// Too many from all.
    Overall,
}

/// How many may come.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Handshakes of one source, a second.
    pub source_handshakes_per_second: u32,
    /// Handshakes of all, a second.
    pub handshakes_per_second: u32,
    /// Joins of one source, a minute.
    pub source_joins_per_minute: u32,
    /// Joins of all, a second.
    pub joins_per_second: u32,
}

/// The door of a gateway.
pub struct Door<S> {
    hasher: S,
    handshakes: Gate,
    joins: Gate,
    /// Handshakes that are not done, by place.
    at_once: Box<[AtomicU32]>,
}

/// A rate for each place, and one for all.
struct Gate {
    each: Rate,
    all: Rate,
    /// When a place is as it was in the beginning, nanoseconds; see [`Rate`].
    places: Box<[AtomicU64]>,
    overall: AtomicU64,
}

/// So many at once, and then one each `interval`.
///
/// A place keeps the moment at which all that was taken from it has come back: taking moves it `interval` further, and it
/// may be `ahead` of now at most. That is a bucket of tokens in one number.
#[derive(Clone, Copy, Debug)]
struct Rate {
    interval: u64,
    ahead: u64,
}

impl Rate {
    fn new(count: u32, per: Duration, burst: u32) -> Self {
        let interval = nanoseconds(per) / u64::from(count.max(1));
        Self { interval, ahead: interval.saturating_mul(u64::from(burst.max(1)) - 1) }
    }

    /// Takes one, if there is one.
    fn take(self, place: &AtomicU64, now: u64) -> bool {
        place
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |back| {
                (back <= now.saturating_add(self.ahead)).then(|| back.max(now).saturating_add(self.interval))
            })
            .is_ok()
    }

    /// Gives back what was just taken.
    fn give_back(self, place: &AtomicU64) {
        place.fetch_sub(self.interval, Ordering::Relaxed);
    }
}

impl Gate {
    fn new(each: Rate, all: Rate) -> Self {
        Self { each, all, places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(), overall: AtomicU64::new(0) }
    }

    fn take(&self, place: usize, now: u64) -> Result<(), Full> {
        let Some(own) = self.places.get(place) else { return Err(Full::Source) };
        if !self.each.take(own, now) {
            return Err(Full::Source);
        }
        if !self.all.take(&self.overall, now) {
            // A source must not pay for what others took.
            self.each.give_back(own);
            return Err(Full::Overall);
        }
        Ok(())
    }
}

/// A handshake that runs; ends when it is dropped.
pub struct Place<'a>(&'a AtomicU32);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S: BuildHasher> Door<S> {
    /// A door at which nobody has been. `hasher` must have a key that nobody knows.
    pub fn new(limits: Limits, hasher: S) -> Self {
        let (second, minute) = (Duration::from_secs(1), Duration::from_mins(1));
        let handshakes = |count: u32| Rate::new(count, second, count.saturating_mul(HANDSHAKE_BURST));
        let joins = Gate::new(
            Rate::new(limits.source_joins_per_minute, minute, limits.source_joins_per_minute),
            Rate::new(limits.joins_per_second, second, limits.joins_per_second),
        );
        Self {
            hasher,
            handshakes: Gate::new(
                handshakes(limits.source_handshakes_per_second),
                handshakes(limits.handshakes_per_second),
            ),
            joins,
            at_once: (0..PLACES).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Lets a join in, or not. `now` is on a clock that does not go back.
    pub fn join(&self, source: IpAddr, now: Duration) -> Result<(), Full> {
        self.joins.take(self.place(source), nanoseconds(now))
    }

    /// Lets a handshake in, or not; it lasts until what is returned is dropped.
    pub fn handshake(&self, source: IpAddr, now: Duration) -> Result<Place<'_>, Full> {
        let place = self.place(source);
        let running = self.at_once.get(place).ok_or(Full::Source)?;
        let entered = running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |running| {
            (running < HANDSHAKES_OF_SOURCE).then_some(running + 1)
        });
        entered.map_err(|_| Full::SourceAtOnce)?;
        let entered = Place(running);
        self.handshakes.take(place, nanoseconds(now))?;
        Ok(entered)
    }

    fn place(&self, source: IpAddr) -> usize {
        usize::try_from(self.hasher.hash_one(network(source))).unwrap_or(usize::MAX) % PLACES
    }
}

/// Who counts as one source: an IPv4 address, or an IPv6 network of 64 bits, as one customer gets it at least.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        address @ IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, RandomState};

    use super::*;

    const LIMITS: Limits = Limits {
        source_handshakes_per_second: 5,
        handshakes_per_second: 1_000,
        source_joins_per_minute: 6,
        joins_per_second: 20,
    };

    fn door() -> Door<std::hash::BuildHasherDefault<DefaultHasher>> {
        Door::new(LIMITS, std::hash::BuildHasherDefault::default())
    }

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn at(milliseconds: u64) -> Duration {
        Duration::from_hours(1) + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_source_may_come_so_often_and_others_are_not_touched() {
        let door = door();
        for _ in 0..6 {
            assert_eq!(door.join(v4(1), at(0)), Ok(()));
        }
        assert_eq!(door.join(v4(1), at(0)), Err(Full::Source));
        assert_eq!(door.join(v4(2), at(0)), Ok(()));
        // One comes back every ten seconds, and no more than six ever.
        assert_eq!(door.join(v4(1), at(9_999)), Err(Full::Source));
        assert_eq!(door.join(v4(1), at(10_000)), Ok(()));
        assert_eq!(door.join(v4(1), at(10_001)), Err(Full::Source));
        let later = at(3_600_000);
        let let_in = (0..20).filter(|_| door.join(v4(1), later).is_ok()).count();
        assert_eq!(let_in, 6);
    }

    #[test]
    fn all_together_may_come_so_often_and_who_is_refused_for_others_pays_nothing() {
        let door = door();
        let let_in = (0..100).filter(|last| door.join(v4(*last), at(0)).is_ok()).count();
        assert_eq!(let_in, 20);
        for _ in 0..10 {
            assert_eq!(door.join(v4(200), at(0)), Err(Full::Overall));
        }
        let let_in = (0..6).filter(|_| door.join(v4(200), at(1_000)).is_ok()).count();
        assert_eq!(let_in, 6, "its own share is whole");
    }

    #[test]
    fn over_any_stretch_of_time_no_more_than_rate_and_burst_come_in() {
        let door = door();
        let mut let_in = 0;
        for millisecond in 0..120_000 {
            let_in += u32::from(door.join(v4(1), at(millisecond)).is_ok());
        }
        assert_eq!(let_in, 6 + 11, "six at once, then one each ten seconds");
    }

    #[test]
    fn handshakes_are_few_at_once_and_few_a_second() {
        let door = Door::new(
            Limits { source_handshakes_per_second: 1_000, handshakes_per_second: 10_000, ..LIMITS },
            RandomState::new(),
        );
        let running: Vec<_> = (0..HANDSHAKES_OF_SOURCE).map(|_| door.handshake(v4(1), at(0)).ok().unwrap()).collect();
        assert_eq!(door.handshake(v4(1), at(0)).err(), Some(Full::SourceAtOnce));
        drop(running);
        assert!(door.handshake(v4(1), at(0)).is_ok());

        let door = self::door();
        for _ in 0..50 {
            assert!(door.handshake(v4(1), at(0)).is_ok());
        }
        assert_eq!(door.handshake(v4(1), at(0)).err(), Some(Full::Source));
        let place = door.place(v4(1));
        assert_eq!(door.at_once[place].load(Ordering::Relaxed), 0, "who is refused does not count as there");
        assert!(door.handshake(v4(1), at(200)).is_ok());
    }

    #[test]
    fn a_source_is_an_address_or_a_network_of_64_bits() {
        let same = |a: &str, b: &str| network(a.parse().unwrap()) == network(b.parse().unwrap());
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(same("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
    }

    #[test]
    fn memory_does_not_grow_with_the_number_of_sources() {
        let door = door();
        for source in 0..1_000_000_u32 {
            drop(door.handshake(IpAddr::from(source.to_be_bytes()), at(u64::from(source))));
        }
        assert_eq!(door.handshakes.places.len(), PLACES);
    }
}
