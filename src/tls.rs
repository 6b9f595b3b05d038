//! TLS of all outgoing connections: rustls with the cryptography of ring, which needs no other build tools than a C
//! compiler.

use std::sync::Once;

use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use url::{Host, Url};

/// Names this program to the servers that it calls.
const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

static INSTALLED: Once = Once::new();

/// Makes ring the cryptography of clients that choose none, in the whole process.
pub fn install_provider() {
    // It fails if the process has chosen one already.
    INSTALLED.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// A builder for an HTTP client that calls `url`. The proxy of the environment (`HTTP_PROXY`) applies, except on the way
/// to this machine: no proxy can reach it, and the proxy would see the tokens.
pub fn client_builder(url: &Url) -> reqwest::ClientBuilder {
    install_provider();
    let builder = reqwest::Client::builder().user_agent(USER_AGENT);
    if is_loopback(url) { builder.no_proxy() } else { builder }
}

/// Whether the URL leads to this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}

/// The HTTP client of the AWS SDK. It heeds no proxy of the environment.
pub fn aws_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}
