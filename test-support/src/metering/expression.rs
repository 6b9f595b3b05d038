//! The little that the server has to read in key conditions itself.

use dynoxide::AttributeValue;
use serde_json::{Map, Value, json};

use super::error::ServiceError;
use super::schema::key_text;

/// The value that a `Query` compares the partition key `hash` with, as text.
pub(super) fn hash_value(request: &Value, hash: &str) -> Result<String, ServiceError> {
    let condition = request["KeyConditionExpression"].as_str().ok_or_else(|| {
        ServiceError::validation("Either the KeyConditions or KeyConditionExpression parameter must be specified")
    })?;
    let tokens = tokens(condition);
    let is_hash = |token: &str| token == hash || request["ExpressionAttributeNames"][token] == hash;
    let compared = tokens.windows(3).find_map(|window| match window {
        [name, "=", value] if is_hash(name) => Some(*value),
        [value, "=", name] if is_hash(name) => Some(*value),
        _ => None,
    });
    let value = compared.map(|value| request["ExpressionAttributeValues"][value].clone()).unwrap_or_default();
    let value: Option<AttributeValue> = serde_json::from_value(value).ok();
    value
        .map(|value| key_text(&value))
        .ok_or_else(|| ServiceError::validation(&format!("Query condition missed key schema element: {hash}")))
}

/// The same `Query` or `Scan` without filter and projection: the items that are read and paid for.
pub(super) fn evaluated(request: &Value) -> Value {
    let mut plain = request.clone();
    let Some(members) = plain.as_object_mut() else { return plain };
    members.retain(|member, _| !["FilterExpression", "ProjectionExpression", "Select"].contains(&member.as_str()));
    let condition = request["KeyConditionExpression"].as_str().unwrap_or_default();
    let used = tokens(condition);
    for placeholders in ["ExpressionAttributeNames", "ExpressionAttributeValues"] {
        let Some(Value::Object(all)) = members.remove(placeholders) else { continue };
        let kept: Map<String, Value> = all.into_iter().filter(|(name, _)| used.contains(&name.as_str())).collect();
        if !kept.is_empty() {
            members.insert(placeholders.to_owned(), json!(kept));
        }
    }
    plain
}

/// Names, placeholders and operators.
fn tokens(expression: &str) -> Vec<&str> {
    let is_word = |character: char| character.is_alphanumeric() || "_#:.-".contains(character);
    let mut tokens = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = if is_word(first) {
            rest.find(|character| !is_word(character)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(end);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}
