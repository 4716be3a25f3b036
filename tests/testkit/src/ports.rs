//! Free ports, without races between tests that run at the same time.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
};

use crate::{Error, Result, locks::Locks};

/// Below Linux's ephemeral ports, so that no outgoing connection takes one.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port that nobody else who asks here gets, until this is dropped: it
/// outlives restarts of the process that listens on it.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Leases a free port.
    pub fn lease() -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let locks = Locks::open("atoll-testkit-ports")?;
        // Processes start at different places so that they seldom meet.
        let start = std::process::id().wrapping_mul(97) % u32::from(COUNT);
        for _ in 0..COUNT {
            let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            let number = FIRST + u16::try_from((start + step) % u32::from(COUNT)).unwrap_or(0);
            if let Some(lock) = locks.try_take(number)?
                && is_free(number)
            {
                return Ok(Self { number, _lock: lock });
            }
        }
        Err(Error::Unsupported(format!(
            "no port from {FIRST} to {} is free: is a test leaking processes?",
            FIRST + COUNT
        )))
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_port_is_leased_twice_at_a_time() {
        let ports: Vec<_> = (0..50).map(|_| Port::lease().unwrap()).collect();
        let numbers: BTreeSet<_> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), 50);
    }

    #[test]
    fn a_port_in_use_is_passed_over() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
    }
}
