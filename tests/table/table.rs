//! A DynamoDB server with one table, the items in it, and the program's commands on it.

use std::collections::{BTreeMap, HashMap};
use std::process::{Command, Stdio};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType,
};
use broker_actors::sandbox::{SandboxId, ShardCount, Status};
use sandbox_broker::dynamo::item::{read_claim, read_sandbox, status_shard};

pub(crate) type Item = HashMap<String, AttributeValue>;
/// All items by their keys.
pub(crate) type Dump = BTreeMap<(String, String), Item>;

pub(crate) const TABLE: &str = "sandbox-broker-pool";

/// The attributes that adoption adds to a sandbox.
const ADDED: [&str; 6] = ["epoch", "expires_at", "status_shard", "shard_at", "last_synced", "adopted"];

pub(crate) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(crate) fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(crate) fn text_of<'a>(item: &'a Item, name: &str) -> &'a str {
    item.get(name).and_then(|value| value.as_s().ok()).map_or("", String::as_str)
}

pub(crate) fn number_of(item: &Item, name: &str) -> u64 {
    item.get(name).and_then(|value| value.as_n().ok()).and_then(|value| value.parse().ok()).unwrap_or(0)
}

pub(crate) fn item<const N: usize>(partition: String, sort: &str, attributes: [(&str, AttributeValue); N]) -> Item {
    let keys = [("PK", text(partition)), ("SK", text(sort))];
    keys.into_iter().chain(attributes).map(|(name, value)| (name.to_owned(), value)).collect()
}

#[allow(clippy::disallowed_methods, reason = "the program under test uses the machine's clock")]
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The program with these settings and nothing else of the environment.
pub(crate) fn program(arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox-broker"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command.envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_REGION", "eu-central-1")]);
    command.envs(settings.iter().copied());
    command
}

/// Runs the program to its end.
pub(crate) async fn run(mut command: Command) -> Done {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let utf8 = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code(), out: utf8(output.stdout), err: utf8(output.stderr) }
}

/// A DynamoDB server of this process.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) client: Client,
    pub(crate) database: dynoxide::Database,
}

impl Server {
    /// A server without a table.
    pub(crate) fn start() -> Self {
        let database = dynoxide::Database::memory().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = database.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                dynoxide::server::serve_on(listener, served).await;
            });
        });
        let config = aws_sdk_dynamodb::Config::builder()
            .http_client(sandbox_broker::tls::aws_client())
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .endpoint_url(&url)
            .build();
        Self { url, client: Client::from_conf(config), database }
    }

    /// A server with a table of the older form, as the Python broker and this broker's first form have it.
    pub(crate) async fn with_old_table() -> Self {
        let server = Self::start();
        create_old_table(&server.client).await;
        server
    }

    /// A server with these items in such a table.
    pub(crate) async fn with_items(items: impl IntoIterator<Item = Item>) -> Self {
        let server = Self::with_old_table().await;
        server.load(items);
        server
    }

    /// Puts items into the table without a request for each.
    pub(crate) fn load(&self, items: impl IntoIterator<Item = Item>) {
        for item in items {
            self.put(&item);
        }
    }

    pub(crate) fn put(&self, item: &Item) {
        let request = serde_json::json!({ "TableName": TABLE, "Item": to_json(item) });
        self.database.put_item(serde_json::from_value(request).unwrap()).unwrap();
    }

    pub(crate) fn delete(&self, partition: &str, sort: &str) {
        let key = serde_json::json!({ "PK": { "S": partition }, "SK": { "S": sort } });
        let request = serde_json::json!({ "TableName": TABLE, "Key": key });
        self.database.delete_item(serde_json::from_value(request).unwrap()).unwrap();
    }

    pub(crate) async fn get(&self, partition: &str, sort: &str) -> Option<Item> {
        let request = self.client.get_item().table_name(TABLE).key("PK", text(partition)).key("SK", text(sort));
        request.consistent_read(true).send().await.unwrap().item
    }

    pub(crate) fn settings(&self) -> Vec<(&str, &str)> {
        vec![("BROKER_STORE", "dynamodb"), ("DDB_ENDPOINT_URL", &self.url)]
    }

    /// A command of the program on this table, with more settings.
    pub(crate) fn command(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Command {
        program(&[&["table"], arguments].concat(), &[&self.settings()[..], settings].concat())
    }

    /// Runs a table command with the length of a lab set, as adoption needs it.
    pub(crate) async fn table(&self, arguments: &[&str]) -> Done {
        let settings: &[_] = if arguments[0] == "adopt" { &[("LAB_DURATION_HOURS", "48")] } else { &[] };
        run(self.command(arguments, settings)).await
    }

    /// Runs a table command that succeeds, and returns what it printed.
    pub(crate) async fn succeed(&self, arguments: &[&str]) -> String {
        let done = self.table(arguments).await;
        assert_eq!(done.code, Some(0), "{arguments:?}: {done:?}");
        done.out
    }

    /// All items.
    pub(crate) async fn dump(&self) -> Dump {
        dump(&self.client).await
    }

    /// The number of items that have an attribute.
    pub(crate) async fn count_with(&self, name: &str) -> usize {
        self.dump().await.values().filter(|item| item.contains_key(name)).count()
    }

    /// The keys of the indexes, by name.
    pub(crate) async fn indexes(&self) -> BTreeMap<String, String> {
        let found = self.client.describe_table().table_name(TABLE).send().await.unwrap().table.unwrap();
        let indexes = found.global_secondary_indexes().iter().map(|index| {
            let keys: Vec<_> = index.key_schema().iter().map(KeySchemaElement::attribute_name).collect();
            (index.index_name().unwrap().to_owned(), keys.join("+"))
        });
        indexes.collect()
    }
}

pub(crate) async fn dump(client: &Client) -> Dump {
    let (mut dump, mut start) = (Dump::new(), None);
    loop {
        let scan = client.scan().table_name(TABLE).consistent_read(true).set_exclusive_start_key(start);
        let page = scan.send().await.unwrap();
        for item in page.items.unwrap_or_default() {
            dump.insert((text_of(&item, "PK").to_owned(), text_of(&item, "SK").to_owned()), item);
        }
        start = page.last_evaluated_key;
        if start.is_none() {
            return dump;
        }
    }
}

/// Makes the table with a status index that is keyed by the bare status.
pub(crate) async fn create_old_table(client: &Client) {
    let attribute =
        |name: &str, kind| AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().unwrap();
    let key = |name: &str, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap();
    let mut request = client
        .create_table()
        .table_name(TABLE)
        .billing_mode(BillingMode::PayPerRequest)
        .key_schema(key("PK", KeyType::Hash))
        .key_schema(key("SK", KeyType::Range))
        .attribute_definitions(attribute("allocated_at", ScalarAttributeType::N));
    for name in ["PK", "SK", "status", "allocated_to_track", "idempotency_key"] {
        request = request.attribute_definitions(attribute(name, ScalarAttributeType::S));
    }
    let indexes =
        [("StatusIndex", "status"), ("TrackIndex", "allocated_to_track"), ("IdempotencyIndex", "idempotency_key")];
    for (name, hash) in indexes {
        let index = GlobalSecondaryIndex::builder()
            .index_name(name)
            .key_schema(key(hash, KeyType::Hash))
            .key_schema(key("allocated_at", KeyType::Range))
            .projection(Projection::builder().projection_type(ProjectionType::All).build());
        request = request.global_secondary_indexes(index.build().unwrap());
    }
    request.send().await.unwrap();
}

fn to_json(item: &Item) -> serde_json::Value {
    let value = |value: &AttributeValue| match value {
        AttributeValue::S(text) => serde_json::json!({ "S": text }),
        AttributeValue::N(number) => serde_json::json!({ "N": number }),
        AttributeValue::Bool(truth) => serde_json::json!({ "BOOL": truth }),
        other => panic!("{other:?} is in no test item"),
    };
    item.iter().map(|(name, it)| (name.clone(), value(it))).collect::<serde_json::Map<_, _>>().into()
}

/// An item that is written as plain JSON.
pub(crate) fn from_json(line: &str) -> Item {
    let plain: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
    let value = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => AttributeValue::S(text),
        serde_json::Value::Number(number) => AttributeValue::N(number.to_string()),
        serde_json::Value::Bool(truth) => AttributeValue::Bool(truth),
        other => panic!("{other} is in no fixture"),
    };
    plain.into_iter().map(|(name, it)| (name, value(it))).collect()
}

/// Asserts that the table is adopted: every sandbox is complete and in its place, each holder has its claim, and there
/// is no other claim. Returns the number of holders.
pub(crate) fn assert_adopted(dump: &Dump, shards: u16) -> usize {
    let shards = ShardCount::new(shards).unwrap();
    let schema = &dump[&("CTRL#schema".to_owned(), "META".to_owned())];
    assert_eq!((number_of(schema, "form"), number_of(schema, "shards")), (2, shards.get().into()), "{schema:?}");
    assert!(!schema.contains_key("resharding_to"));
    let mut holders = 0;
    for ((partition, _), item) in dump.iter().filter(|((partition, _), _)| partition.starts_with("SBX#")) {
        let sandbox = read_sandbox(item).unwrap_or_else(|error| panic!("{error}"));
        let shard = shards.shard_of(&SandboxId::new(partition.trim_start_matches("SBX#")));
        assert_eq!(text_of(item, "status_shard"), status_shard(sandbox.status, shard), "{item:?}");
        assert_eq!(sandbox.shard_at, sandbox.position(), "{item:?}");
        if sandbox.status != Status::Allocated {
            continue;
        }
        holders += 1;
        let (track, key) = (sandbox.allocated_to_track.as_ref().unwrap(), sandbox.idempotency_key.as_ref().unwrap());
        let claim = dump.get(&(format!("TRACK#{track}"), format!("CLAIM#{key}")));
        let claim = claim.unwrap_or_else(|| panic!("{partition} has no claim"));
        assert!(!claim.contains_key("ttl"), "{claim:?}");
        assert_eq!(Some(read_claim(claim).unwrap()), broker_actors::sandbox::Claim::held(&sandbox));
    }
    let claims = dump.keys().filter(|(partition, _)| partition.starts_with("TRACK#")).count();
    assert_eq!(claims, holders, "claims without a holder");
    holders
}

/// Asserts that every item is as before, but for what adoption adds.
pub(crate) fn assert_only_added(before: &Dump, after: &Dump) {
    for (key, old) in before {
        let mut new = after.get(key).unwrap_or_else(|| panic!("{key:?} is gone")).clone();
        if key.0.starts_with("SBX#") {
            new.retain(|name, _| old.contains_key(name) || !ADDED.contains(&name.as_str()));
        }
        assert_eq!(&new, old, "{key:?}");
    }
    for key in after.keys().filter(|key| !before.contains_key(*key)) {
        assert!(key.0.starts_with("TRACK#") || key.0 == "CTRL#schema", "{key:?} is new");
    }
}
