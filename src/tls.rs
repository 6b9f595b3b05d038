//! TLS of all outgoing connections: rustls with the cryptography of ring, which needs no other build tools than a C
//! compiler.

use std::sync::Once;

use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::SharedHttpClient;

static INSTALLED: Once = Once::new();

/// Makes ring the cryptography of clients that choose none, in the whole process.
pub fn install_provider() {
    // It fails if the process has chosen one already.
    INSTALLED.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// A builder for an HTTP client.
pub fn client_builder() -> reqwest::ClientBuilder {
    install_provider();
    reqwest::Client::builder()
}

/// The HTTP client of the AWS SDK.
pub fn aws_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}
