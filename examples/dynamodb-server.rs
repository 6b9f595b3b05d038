//! A DynamoDB server for load tests with several brokers: dynoxide in memory, on the port that the argument names.
#![allow(clippy::print_stdout, reason = "the caller reads the address from it")]

use std::net::{Ipv4Addr, SocketAddr};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::args().nth(1).ok_or("usage: dynamodb-server <port>")?.parse()?;
    let listener = tokio::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    println!("DynamoDB on http://{}", listener.local_addr()?);
    dynoxide::server::serve_on(listener, dynoxide::Database::memory()?).await;
    Ok(())
}
