//! The trail of the sandboxes in the log.

use broker_actors::sandbox::ConditionalUpdate;

/// Logs that a sandbox has moved to another status. The item itself keeps only the last move to each.
pub(super) fn log(update: &ConditionalUpdate) {
    if update.changes_status() {
        tracing::info!(
            event = "sandbox_changed",
            sandbox_id = %update.sandbox_id,
            from = update.from().as_str(),
            to = update.mutation.to.as_str(),
            by = &*update.mutation.by,
            "sandbox changed"
        );
    }
}
