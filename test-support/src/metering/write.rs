//! `PutItem`, `UpdateItem` and `DeleteItem`.

use serde_json::Value;
use tokio::time::Instant;

use super::error::ServiceError;
use super::schema::{item, text};
use super::state::{State, Target};
use super::units::table_write_units;

impl State {
    /// Carries out a single write, or refuses it and leaves the item as it was.
    pub(super) fn write(&mut self, operation: &str, request: Value) -> Result<Value, ServiceError> {
        let attributes = item(&request[if operation == "PutItem" { "Item" } else { "Key" }])?;
        let target = self.target(&text(&request, "TableName")?, &attributes)?;
        if self.marked.contains(&target.name) {
            return Err(ServiceError::conflict());
        }
        let before = self.get(&target)?;
        let response = match self.items.call(operation, request) {
            Err(error) if error.code() == "ConditionalCheckFailedException" => {
                let units = table_write_units(before.as_ref(), None);
                self.charge_table(operation, &target, units)?;
                return Err(error);
            }
            response => response?,
        };
        let after = self.get(&target)?;
        let units = table_write_units(before.as_ref(), after.as_ref());
        let cost = self.write_cost(&target, units, before.as_ref(), after.as_ref());
        match self.meter.take(&cost.charges(), Instant::now()) {
            Ok(waits) => {
                let index_lag = self.settle_write(operation, &target, cost, &waits);
                self.show_commit(&[(&target, index_lag)]);
            }
            Err(throttled) => {
                self.items.restore(&target.name.table, &target.key, before.as_ref())?;
                return Err(self.throttle_error(&throttled));
            }
        }
        Ok(response)
    }

    fn charge_table(&mut self, operation: &str, target: &Target, units: f64) -> Result<(), ServiceError> {
        let charge = [self.table_charge(target, units)];
        match self.meter.take(&charge, Instant::now()) {
            Ok(_) => {
                self.meter.count(operation, &charge);
                Ok(())
            }
            Err(throttled) => Err(self.throttle_error(&throttled)),
        }
    }
}
