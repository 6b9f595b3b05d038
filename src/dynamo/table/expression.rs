//! Conditions and updates of named attributes, as the SDK's builders take them.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::dynamo::item::Item;

/// An update and its condition. Every attribute name is a placeholder, so reserved words need no care.
#[derive(Clone, Debug, Default)]
pub(super) struct Expression {
    sets: Vec<String>,
    removals: Vec<String>,
    conditions: Vec<String>,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

impl Expression {
    /// Sets an attribute.
    pub(super) fn set(&mut self, name: &str, value: AttributeValue) {
        let assignment = format!("{} = {}", self.name(name), self.value(value));
        self.sets.push(assignment);
    }

    /// Removes an attribute.
    pub(super) fn remove(&mut self, name: &str) {
        let name = self.name(name);
        self.removals.push(name);
    }

    /// Requires an attribute to be as `item` has it: the same value, or absent.
    pub(super) fn require_as_in(&mut self, item: &Item, name: &str) {
        let condition = match item.get(name) {
            Some(value) => format!("{} = {}", self.name(name), self.value(value.clone())),
            None => format!("attribute_not_exists({})", self.name(name)),
        };
        self.conditions.push(condition);
    }

    /// Requires that the attributes do not all have these values. An item that is absent meets this.
    pub(super) fn require_not_all(&mut self, attributes: &[(&str, AttributeValue)]) {
        let equal: Vec<_> = attributes
            .iter()
            .map(|(name, value)| format!("{} = {}", self.name(name), self.value(value.clone())))
            .collect();
        self.conditions.push(format!("NOT ({})", equal.join(" AND ")));
    }

    /// The update expression.
    pub(super) fn update(&self) -> String {
        let clauses = [("SET", &self.sets), ("REMOVE", &self.removals)];
        let clauses = clauses.into_iter().filter(|(_, parts)| !parts.is_empty());
        clauses.map(|(word, parts)| format!("{word} {}", parts.join(", "))).collect::<Vec<_>>().join(" ")
    }

    /// The condition expression; `None` if there is no condition.
    pub(super) fn condition(&self) -> Option<String> {
        (!self.conditions.is_empty()).then(|| self.conditions.join(" AND "))
    }

    /// What the placeholders for names stand for.
    pub(super) fn names(&self) -> Option<HashMap<String, String>> {
        (!self.names.is_empty()).then(|| self.names.clone())
    }

    /// What the placeholders for values stand for.
    pub(super) fn values(&self) -> Option<HashMap<String, AttributeValue>> {
        (!self.values.is_empty()).then(|| self.values.clone())
    }

    fn name(&mut self, name: &str) -> String {
        let placeholder = format!("#{name}");
        self.names.insert(placeholder.clone(), name.to_owned());
        placeholder
    }

    fn value(&mut self, value: AttributeValue) -> String {
        let placeholder = format!(":v{}", self.values.len());
        self.values.insert(placeholder.clone(), value);
        placeholder
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamo::item::{number, text};

    #[test]
    fn an_update_names_what_it_sets_removes_and_requires() {
        let item = Item::from([("status".to_owned(), text("stale"))]);
        let mut expression = Expression::default();
        expression.set("epoch", number(7));
        expression.remove("ttl");
        expression.require_as_in(&item, "status");
        expression.require_as_in(&item, "epoch");
        assert_eq!(expression.update(), "SET #epoch = :v0 REMOVE #ttl");
        assert_eq!(expression.condition().unwrap(), "#status = :v1 AND attribute_not_exists(#epoch)");
        assert_eq!(expression.values().unwrap()[":v1"], text("stale"));
        assert_eq!(expression.names().unwrap().len(), 3);
    }
}
