//! What Terraform says of the program is held against the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::Args as _;
use sandbox_broker::config::RawSettings;

/// Set by nobody: the replica's name must differ from task to task, and DynamoDB needs no directory.
const NOT_FOR_TERRAFORM: [&str; 2] = ["BROKER_DATA_DIR", "BROKER_REPLICA_ID"];

#[test]
fn every_setting_can_be_set_and_no_other() {
    let program = RawSettings::augment_args(clap::Command::new("broker"));
    let mut of_the_program: BTreeSet<String> = program
        .get_arguments()
        .filter_map(|argument| Some(argument.get_env()?.to_str().expect("names are ASCII").to_owned()))
        .collect();
    for name in NOT_FOR_TERRAFORM {
        assert!(of_the_program.remove(name), "{name} is no setting any more");
    }

    let settings = text("terraform/variables_broker.tf");
    let settings = settings.split_once("variable \"settings\"").expect("the variable is there").1;
    let mut of_terraform: BTreeSet<String> = settings
        .lines()
        .filter_map(|line| line.split_once("= optional("))
        .map(|(name, _)| name.trim().to_uppercase())
        .collect();
    let task = text("terraform/ecs.tf");
    let task = task.split_once("environment = merge(").expect("the environment is there").1;
    let task = task.split_once("log_options").expect("the tokens are there").0;
    let words: Vec<_> = task.split_whitespace().collect();
    let set = words.windows(2).filter(|pair| pair[1] == "=" && is_setting(pair[0]));
    of_terraform.extend(set.map(|pair| pair[0].to_owned()));
    assert_eq!(of_terraform, of_the_program);
}

#[test]
fn the_task_may_do_what_the_adapter_does_and_nothing_else() {
    let adapter = text("src/dynamo/store.rs") + &text("src/dynamo/coordination.rs");
    // The parts of a transaction are the permissions that it needs.
    let calls = [
        (".get_item()", "GetItem"),
        (".batch_get_item()", "BatchGetItem"),
        (".put_item()", "PutItem"),
        ("Put::builder()", "PutItem"),
        (".update_item()", "UpdateItem"),
        ("Update::builder()", "UpdateItem"),
        (".delete_item()", "DeleteItem"),
        ("Delete::builder()", "DeleteItem"),
        ("ConditionCheck::builder()", "ConditionCheckItem"),
        (".query()", "Query"),
        (".scan()", "Scan"),
        (".batch_write_item()", "BatchWriteItem"),
        (".transact_get_items()", "GetItem"),
    ];
    let mut done: BTreeSet<String> =
        calls.iter().filter(|(call, _)| adapter.contains(call)).map(|(_, action)| (*action).to_owned()).collect();
    // The check of the table at every start.
    done.insert("DescribeTable".to_owned());

    let policy = text("terraform/iam.tf");
    let (_, statement) = policy.split_once("UseTheTable").expect("the statement is there");
    let (statement, rest) = statement.split_once("resources").expect("it has resources");
    assert!(rest.starts_with(" = [aws_dynamodb_table.pool.arn]"), "only this table: {rest}");
    assert_eq!(actions(statement), done);
    assert_eq!(policy.matches("\"dynamodb:").count(), done.len() + 1, "beside them only the indexes are queried");
    assert!(
        policy
            .contains("actions   = [\"dynamodb:Query\"]\n    resources = [\"${aws_dynamodb_table.pool.arn}/index/*\"]")
    );
}

fn actions(statement: &str) -> BTreeSet<String> {
    statement.split('"').filter_map(|word| word.strip_prefix("dynamodb:")).map(str::to_owned).collect()
}

fn is_setting(name: &str) -> bool {
    name.len() > 3 && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
