/// A client with the broker's TLS.
pub fn http_client() -> reqwest::Client {
    sandbox_broker::tls::client_builder().build().unwrap()
}
