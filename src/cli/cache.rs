//! `kthinlto cache`: what the shared cache holds, and how to have less of it.

use super::args::{CacheAction, CacheArgs};
use super::{place, say};
use crate::error::Error;
use crate::store::cache::{Cache, Stats};

/// Runs the command; with `dry_run` nothing is removed.
pub fn run(arguments: &CacheArgs, dry_run: bool) -> anyhow::Result<()> {
    let place = place(&arguments.place).ok_or_else(|| {
        Error::Usage("no cache is named; set KTHINLTO_CACHE_DIR, or give --cache-dir".to_owned())
    })?;
    if place.readonly && arguments.action != CacheAction::Stats && !dry_run {
        let text = "the cache is read-only; unset KTHINLTO_CACHE_READONLY to prune or clear it";
        return Err(Error::Usage(text.to_owned()).into());
    }
    let mut cache = Cache::existing(&place)?;
    let stats = match arguments.action {
        CacheAction::Stats => cache.stats()?,
        CacheAction::Prune if dry_run => cache.after_pruning()?,
        CacheAction::Prune => cache.prune()?,
        CacheAction::Clear if dry_run => Stats::default(),
        CacheAction::Clear => {
            cache.clear()?;
            cache.stats()?
        }
    };
    let would = if dry_run && arguments.action != CacheAction::Stats { "would hold " } else { "" };
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    say(&format!(
        "{}: {would}{} objects, {:.1} MiB of {:.1} MiB",
        place.folder.display(),
        stats.entries,
        mebibytes(stats.bytes),
        mebibytes(place.limit)
    ));
    Ok(())
}
