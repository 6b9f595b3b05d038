//! The address of a client, as rate limits and the operators' records count it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use actix_web::{HttpRequest, web};

/// Stands for a client whose connection has no peer address.
const UNKNOWN: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The number of proxies in front of the broker whose entries in `X-Forwarded-For` are trusted.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrustedProxies(pub(super) usize);

/// The address in an entry of `X-Forwarded-For`, in the forms that proxies write: bare, with a port, an IPv6 address in
/// brackets or with a zone, and any of these in quotes.
fn address_of(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim().trim_matches('"');
    let without_brackets = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(entry);
    let without_zone = without_brackets.split_once('%').map_or(without_brackets, |(address, _)| address);
    let with_port = || entry.parse::<SocketAddr>().ok().map(|address| address.ip());
    without_zone.parse().ok().or_else(with_port)
}

/// The client's address. Each trusted proxy has appended one entry to `X-Forwarded-For`; entries further left may be
/// forged. An IPv6 client counts by its /64, which usually belongs to one customer.
pub(super) fn client_address(request: &HttpRequest) -> IpAddr {
    let trusted = request.app_data::<web::Data<TrustedProxies>>().map_or(0, |proxies| proxies.0);
    let peer = request.peer_addr().map_or(UNKNOWN, |address| address.ip());
    let forwarded = request.headers().get_all("x-forwarded-for").filter_map(|value| value.to_str().ok());
    // An entry that is no address keeps its position; otherwise a forged entry would move into the trusted position.
    let mut hops: Vec<Option<IpAddr>> = forwarded.flat_map(|value| value.split(',')).map(address_of).collect();
    hops.push(Some(peer));
    let client = hops[hops.len().saturating_sub(1 + trusted)].unwrap_or(peer);
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_forwarded_address_is_understood() {
        for (entry, address) in [
            ("198.51.100.7", "198.51.100.7"),
            (" 198.51.100.7 ", "198.51.100.7"),
            ("203.0.113.7:40123", "203.0.113.7"),
            ("\"203.0.113.7:40123\"", "203.0.113.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:40123", "2001:db8::1"),
            ("\"[2001:db8::1]:40123\"", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%eth0]", "fe80::1"),
            ("[fe80::1%2]:40123", "fe80::1"),
            ("::ffff:198.51.100.7", "::ffff:198.51.100.7"),
            ("[::ffff:198.51.100.7]:40123", "::ffff:198.51.100.7"),
        ] {
            assert_eq!(address_of(entry), Some(address.parse().unwrap()), "{entry}");
        }
        for entry in
            ["", "unknown", "_hidden", "198.51.100", "198.51.100.7:", "198.51.100.7:port", "[2001:db8::1", "[]"]
        {
            assert_eq!(address_of(entry), None, "{entry}");
        }
    }
}
