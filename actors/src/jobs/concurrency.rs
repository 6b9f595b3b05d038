//! Bounded concurrency over many items.

use std::pin::pin;

use futures_util::stream::{FuturesUnordered, Stream};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use crate::ports::{Pages, StoreError};
use crate::sandbox::Sandbox;

/// Errors in a row after which the rest is given up: something that all items need does not work.
const MAX_CONSECUTIVE_ERRORS: u32 = 32;

/// Runs `work` on each item, at most `limit` at a time, and passes the results to `tally`. An error of one item stops no
/// other. Cancellation, many errors in a row or an error of the items themselves prevent further items from being started;
/// what has started runs to its end before this returns.
///
/// # Errors
///
/// The first error, after all that could be done is done.
pub(crate) async fn for_each<T, R, E, F>(
    items: impl Stream<Item = Result<T, E>>,
    limit: usize,
    stop: &CancellationToken,
    work: impl Fn(T) -> F,
    mut tally: impl FnMut(R),
) -> Result<(), E>
where
    F: Future<Output = Result<R, E>>,
{
    let mut items = pin!(items.fuse());
    let mut running = FuturesUnordered::new();
    let mut first_error = None;
    let mut consecutive_errors = 0;
    let mut are_items_left = true;
    loop {
        let takes_more = are_items_left
            && running.len() < limit.max(1)
            && !stop.is_cancelled()
            && consecutive_errors < MAX_CONSECUTIVE_ERRORS;
        let result = tokio::select! {
            biased;
            item = items.next(), if takes_more => {
                match item {
                    Some(Ok(item)) => running.push(work(item)),
                    Some(Err(error)) => {
                        first_error = first_error.or(Some(error));
                        are_items_left = false;
                    }
                    None => are_items_left = false,
                }
                continue;
            }
            result = running.next(), if !running.is_empty() => result,
            else => return first_error.map_or(Ok(()), Err),
        };
        match result {
            None => {}
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

/// These items, for [`for_each`].
pub(crate) fn all<T, E>(items: impl IntoIterator<Item = T>) -> impl Stream<Item = Result<T, E>> {
    stream::iter(items.into_iter().map(Ok))
}

/// The sandboxes of a listing, for [`for_each`]. Pages are read when they are needed.
pub(crate) fn listed<E: From<StoreError>>(pages: Pages<'_>) -> impl Stream<Item = Result<Sandbox, E>> {
    let pages = stream::try_unfold(pages, |mut pages| async {
        let page = pages.next().await?;
        Ok::<_, E>(page.map(|page| (all::<_, E>(page), pages)))
    });
    pages.try_flatten()
}
