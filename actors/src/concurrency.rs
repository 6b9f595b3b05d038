//! Work on many items, several at a time, to an orderly end.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::job::StopSignal;

/// Does `work` on each item, at most `limit` at a time, and tallies the results. A stop request or a first error
/// keeps further items from being begun; what is under way comes to its end before this returns.
pub(crate) async fn for_each<T, R, E, F>(
    items: impl IntoIterator<Item = T>,
    limit: usize,
    stop: &StopSignal,
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
        while running.len() < limit.max(1) && first_error.is_none() && !stop.is_requested() {
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
