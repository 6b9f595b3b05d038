//! Bounded concurrency over many items.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

/// Runs `work` on each item, at most `limit` at a time, and passes the results to `tally`. Cancellation or the first
/// error prevents further items from being started; what has started runs to its end before this returns.
///
/// # Errors
///
/// The first error of `work`.
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
    loop {
        while running.len() < limit.max(1) && first_error.is_none() && !stop.is_cancelled() {
            let Some(item) = items.next() else { break };
            running.push(work(item));
        }
        match running.next().await {
            None => return first_error.map_or(Ok(()), Err),
            Some(Ok(result)) => tally(result),
            Some(Err(error)) => first_error = first_error.or(Some(error)),
        }
    }
}
