//! The gateway's flags.

use std::net::SocketAddr;
use std::time::Duration;

use atoll_api::names::SYSTEM_NAMESPACE;
use atoll_runtime::process::CommonArgs;

use super::door::Limits;

/// A gateway: the end of the hub that the agents of Sites talk to.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "atoll-gateway", version)]
pub struct Args {
    /// Flags that every process has.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where agents connect.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,
    /// Name of this gateway's Lease; must be unique to the process. Default: the host's name and a random suffix.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// DNS name or IP address that agents reach the gateways by; may be given several times. The Service's name,
    /// `localhost` and 127.0.0.1 are always there.
    #[arg(long = "public-name", value_name = "NAME")]
    pub public_names: Vec<String>,
    /// Namespace of Atoll's own objects.
    #[arg(long, value_name = "NAMESPACE", default_value = SYSTEM_NAMESPACE)]
    pub namespace: String,
    /// How long a Site may be silent before it counts as absent, such as `30s`.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub suspect_after: Duration,
    /// How often agents send a heartbeat, unless short fence times need it more often; such as `10s`.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub heartbeat: Duration,
    /// TLS connections that one address (IPv4) or network of 64 bits (IPv6) may begin each second; ten times as many at
    /// once. Behind something that hides addresses all Sites are one source: allow as many as for all.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub source_handshakes_per_second: u32,
    /// TLS connections that all may begin each second; ten times as many at once.
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub handshakes_per_second: u32,
    /// Joins, and certificates for keys that joined, of one such source each minute.
    #[arg(long, value_name = "COUNT", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub source_joins_per_minute: u32,
    /// The same of all each second.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub joins_per_second: u32,
    /// Seconds after which the Sites of a silent gateway count as lost with it.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(3..=3600))]
    pub lease_seconds: u32,
}

impl Args {
    /// How many may come in.
    #[must_use]
    pub(super) fn limits(&self) -> Limits {
        Limits {
            source_handshakes_per_second: self.source_handshakes_per_second,
            handshakes_per_second: self.handshakes_per_second,
            source_joins_per_minute: self.source_joins_per_minute,
            joins_per_second: self.joins_per_second,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration: jiff::SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    match Duration::try_from(duration) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("must be more than zero".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn defaults_are_those_of_the_design() {
        let args = Args::try_parse_from(["atoll-gateway"]).unwrap();
        assert_eq!(args.suspect_after, Duration::from_secs(30));
        assert_eq!(args.heartbeat, Duration::from_secs(10));
        assert_eq!(args.lease_seconds, 300);
    }

    #[test]
    fn durations_are_read_as_written_and_never_zero() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for text in ["", "0s", "-3s", "ten"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
