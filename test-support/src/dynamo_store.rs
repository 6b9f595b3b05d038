use sandbox_broker::dynamo::table::TableNames;
use sandbox_broker::dynamo::table::create::{CreateOptions, create_table};
use sandbox_broker::dynamo::table::open::open_table;
use sandbox_broker::dynamo::{DynamoClient, DynamoStore};

/// The store on a table of the default names, which is created if it is missing.
pub async fn dynamo_store(client: DynamoClient) -> DynamoStore {
    dynamo_store_named(client, &TableNames::default()).await
}

/// The store on the table of these names, which is created if it is missing.
pub async fn dynamo_store_named(client: DynamoClient, names: &TableNames) -> DynamoStore {
    create_table(&client.for_tables(), names, &CreateOptions::default(), |_| {}).await.unwrap();
    let form = open_table(&client.for_tables(), names).await.unwrap();
    DynamoStore::new(client.into(), names.table.as_str(), form)
}
