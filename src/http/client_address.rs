//! The address of a client, as rate limits and the operators' records count it.

use std::net::{IpAddr, Ipv6Addr};

use actix_web::{HttpRequest, web};

/// Stands for a client whose connection has no peer address.
const UNKNOWN: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The number of proxies in front of the broker whose entries in `X-Forwarded-For` are trusted.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrustedProxies(pub(super) usize);

/// The client's address. Each trusted proxy has appended one entry to `X-Forwarded-For`; entries further left may be
/// forged. An IPv6 client counts by its /64, which usually belongs to one customer.
pub(super) fn client_address(request: &HttpRequest) -> IpAddr {
    let trusted = request.app_data::<web::Data<TrustedProxies>>().map_or(0, |proxies| proxies.0);
    let peer = request.peer_addr().map_or(UNKNOWN, |address| address.ip());
    let forwarded = request.headers().get_all("x-forwarded-for").filter_map(|value| value.to_str().ok());
    // An entry that is no address keeps its position; otherwise a forged entry would move into the trusted position.
    let mut hops: Vec<Option<IpAddr>> =
        forwarded.flat_map(|value| value.split(',')).map(|hop| hop.trim().parse().ok()).collect();
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
