//! The Terraform configuration against the program. What is generated has its test in `tests/api/reference.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sandbox_broker::dynamo::table::schema::FORM;
use sandbox_broker::reference::terraform::SET_BY_THE_TASK;

const MODULE: &str = "terraform/modules/sandbox-broker";

#[test]
fn the_task_sets_what_the_settings_variable_leaves_out() {
    let task = module("ecs.tf");
    for name in SET_BY_THE_TASK {
        assert!(task.split_whitespace().any(|word| word == name), "ecs.tf does not set {name}");
    }
}

#[test]
fn every_variable_is_described_and_validated_and_refuses_a_bad_value() {
    let refused = module("tests/refusals.tftest.hcl");
    let variables = variables();
    let blocks: Vec<&str> = variables.split("\nvariable \"").skip(1).collect();
    assert_eq!(blocks.len(), variables.matches("\n  description").count());
    for block in blocks {
        let (name, body) = block.split_once('"').expect("a variable has a name");
        let (body, _) = body.split_once("\n}").expect("a variable ends");
        for part in ["\n  description", "\n  type ", "\n  validation {"] {
            assert!(body.contains(part), "{name} lacks its {}", part.trim());
        }
        // A type with two values has no bad value.
        let is_bool = body.contains("= bool");
        let is_tested = [",", "]"].iter().any(|end| refused.contains(&format!("var.{name}{end}")));
        assert!(is_bool || is_tested, "refusals.tftest.hcl tries no bad value of {name}");
    }
}

#[test]
fn the_root_passes_every_variable_on() {
    let root = text("terraform/main.tf");
    let passed: BTreeSet<String> = root.lines().map(|line| line.split_whitespace().collect()).collect();
    let variables = variables();
    for line in variables.lines().filter(|line| line.starts_with("variable ")) {
        let name = line.split('"').nth(1).expect("a variable has a name");
        assert!(passed.contains(&format!("{name}=var.{name}")), "terraform/main.tf does not pass {name} on");
    }
}

#[test]
fn a_new_table_has_the_form_of_this_version() {
    let table = module("dynamodb.tf");
    assert!(table.contains(&format!("form   = {{ N = \"{FORM}\" }}")));
}

#[test]
fn the_task_may_call_exactly_what_the_adapter_calls() {
    let adapter = [
        "store.rs",
        "tickets.rs",
        "coordination.rs",
        "audit.rs",
        "stats_history.rs",
        "table/open.rs",
        "table/schema.rs",
    ];
    let adapter = adapter.map(|file| text(&format!("src/dynamo/{file}"))).concat();
    // A transaction needs the permissions of its operations.
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
    // The table and its TTL are checked at every start.
    done.extend(["DescribeTable".to_owned(), "DescribeTimeToLive".to_owned()]);

    let policy = module("iam.tf");
    let (_, statement) = policy.split_once("UseTheTable").expect("the statement is there");
    let (statement, rest) = statement.split_once("resources").expect("it has resources");
    assert!(rest.starts_with(" = [aws_dynamodb_table.pool.arn]"), "the statement must name only this table: {rest}");
    assert_eq!(actions(statement), done);
    assert_eq!(
        policy.matches("\"dynamodb:").count(),
        done.len() + 1,
        "the only other action must be the query of the indexes"
    );
    assert!(
        policy
            .contains("actions   = [\"dynamodb:Query\"]\n    resources = [\"${aws_dynamodb_table.pool.arn}/index/*\"]")
    );
}

fn actions(statement: &str) -> BTreeSet<String> {
    statement.split('"').filter_map(|word| word.strip_prefix("dynamodb:")).map(str::to_owned).collect()
}

fn variables() -> String {
    ["variables.tf", "variables_network.tf", "variables_broker.tf"].map(module).concat()
}

fn module(file: &str) -> String {
    text(&format!("{MODULE}/{file}"))
}

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
