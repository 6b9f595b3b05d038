/// A client with the broker's TLS.
pub fn http_client() -> reqwest::Client {
    sandbox_broker::tls::install_provider();
    reqwest::Client::builder().no_proxy().build().unwrap()
}
