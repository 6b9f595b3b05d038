//! Days, by which the table partitions what it keeps for a while.

use std::time::Duration;

use broker_actors::sandbox::Timestamp;

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// The day of a moment in UTC, as `yyyymmdd`.
pub(crate) fn day_of(at: Timestamp) -> String {
    let seconds = i64::try_from(at.0).unwrap_or_default();
    let moment = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    moment.strftime("%Y%m%d").to_string()
}
