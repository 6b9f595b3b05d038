use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use dynoxide::Database;
use sandbox_broker::dynamo::DynamoClient;

use crate::process::{output_of, program};

/// A server of DynamoDB's protocol in this process, with the table that `sandbox-broker table create` makes.
pub struct DynamoServer {
    pub url: String,
}

impl DynamoServer {
    pub async fn start() -> Self {
        Self::on(Database::memory().unwrap()).await
    }

    /// A server of this database. It runs on its own thread until the process ends.
    pub async fn on(database: Database) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                dynoxide::server::serve_on(listener, database).await;
            });
        });
        create_table(&url, &[]).await;
        Self { url }
    }

    /// A client of the server, with the SDK's default settings.
    pub fn client(&self) -> aws_sdk_dynamodb::Client {
        let config = aws_sdk_dynamodb::Config::builder()
            .http_client(sandbox_broker::tls::aws_client())
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .endpoint_url(&self.url)
            .build();
        aws_sdk_dynamodb::Client::from_conf(config)
    }

    /// A client of the server, as the broker uses it.
    pub fn dynamo_client(&self) -> DynamoClient {
        DynamoClient::new(self.client())
    }
}

/// Makes the broker's table on the server at this URL, with these flags of `table create`.
pub(crate) async fn create_table(url: &str, flags: &[&str]) {
    let mut create = program(&[&["table", "create"], flags].concat());
    create.envs([("BROKER_STORE", "dynamodb"), ("DDB_ENDPOINT_URL", url)]);
    let created = output_of(create).await;
    assert!(created.status.success(), "{created:?}");
}
