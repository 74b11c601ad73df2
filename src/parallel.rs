//! Reads many files at once. Knows threads; must not know what is done in them.

use std::thread;

use crossbeam::channel;

/// Applies `work` to all items on up to `threads` threads; results keep the items' order.
pub fn map<T: Sync, R: Send>(threads: usize, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    map_with(threads, items, || (), |(), item| work(item))
}

/// The same with something that `make` makes for each thread, such as room for bytes.
pub fn map_with<T: Sync, S, R: Send>(
    threads: usize,
    items: &[T],
    make: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &T) -> R + Sync,
) -> Vec<R> {
    // A thread costs more than it saves below some dozens of small files.
    let threads = threads.min(items.len() / 32).max(1);
    if threads == 1 {
        let mut own = make();
        return items.iter().map(|item| work(&mut own, item)).collect();
    }
    let (sender, chunks) = channel::unbounded();
    for chunk in items.chunks(16).enumerate() {
        // The receiver lives until the scope ends.
        let _ = sender.send(chunk);
    }
    drop(sender);
    let run = || {
        let mut own = make();
        let mut all = |chunk: &[T]| chunk.iter().map(|item| work(&mut own, item)).collect();
        chunks.iter().map(|(at, chunk)| (at, all(chunk))).collect::<Vec<(usize, Vec<R>)>>()
    };
    let mut parts = thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut parts = run();
        for helper in helpers {
            match helper.join() {
                Ok(more) => parts.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        parts
    });
    parts.sort_by_key(|(at, _)| *at);
    parts.into_iter().flat_map(|(_, results)| results).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_keep_their_order() {
        let items: Vec<usize> = (0..1000).collect();
        assert_eq!(
            super::map(4, &items, |n| n * 2),
            items.iter().map(|n| n * 2).collect::<Vec<_>>()
        );
        assert_eq!(super::map(4, &items[..3], |n| n + 1), [1, 2, 3]);
    }
}
