//! Bounded concurrency over many items.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

/// Errors in a row after which the rest is given up: something that all items need does not work.
const MAX_CONSECUTIVE_ERRORS: u32 = 32;

/// Runs `work` on each item, at most `limit` at a time, and passes the results to `tally`. An error of one item stops no
/// other. Cancellation, or many errors in a row, prevent further items from being started; what has started runs to its
/// end before this returns.
///
/// # Errors
///
/// The first error of `work`, after all that could be done is done.
pub(crate) async fn for_each<T, R, E, F>(
    items: impl IntoIterator<Item = T>,
    limit: usize,
    stop: &CancellationToken,
    work: impl Fn(T) -> F,
    mut tally: impl FnMut(R),
) -> Result<(), E>
where
    F: Future<Output = Result<R, E>>,
{
    let mut items = items.into_iter();
    let mut running = FuturesUnordered::new();
    let mut first_error = None;
    let mut consecutive_errors = 0;
    loop {
        while running.len() < limit.max(1) && !stop.is_cancelled() && consecutive_errors < MAX_CONSECUTIVE_ERRORS {
            let Some(item) = items.next() else { break };
            running.push(work(item));
        }
        match running.next().await {
            None => return first_error.map_or(Ok(()), Err),
            Some(Ok(result)) => {
                consecutive_errors = 0;
                tally(result);
            }
            Some(Err(error)) => {
                consecutive_errors += 1;
                first_error = first_error.or(Some(error));
            }
        }
    }
}
