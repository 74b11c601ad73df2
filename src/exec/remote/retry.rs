//! What can go wrong between here and a server, and what is tried again: passing failures, after a while that
//! doubles and is not the same for all. Must not know what was asked.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::digest::Digest;

/// What a failure means to whoever asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// There is no connection.
    Lost,
    /// It may pass: the server is full, or asks to try again.
    Passing,
    /// Of an execution, it may pass too: the server does not say what happened.
    Unknown,
    /// It took longer than it may.
    TooLong,
    /// There is no such thing.
    NotFound,
    /// These blobs are missing, as far as the server says which.
    Missing(Vec<Digest>),
    /// The server does not let us.
    Denied,
    /// It cannot do this.
    Unsupported,
    /// Anything else: an answer that cannot be used, a request that is not accepted, a file here.
    Other,
}

/// A failure, as a clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub kind: Kind,
    pub text: String,
}

impl Failure {
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Failure { kind, text: text.into() }
    }

    /// An answer that cannot be used, or a file here that cannot.
    pub fn other(text: impl Into<String>) -> Self {
        Failure::new(Kind::Other, text)
    }

    /// Whether the same request may succeed a little later.
    pub fn is_passing(&self) -> bool {
        matches!(self.kind, Kind::Lost | Kind::Passing)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.text)
    }
}

pub(super) type Result<T> = std::result::Result<T, Failure>;

/// How often a request is made at most.
pub(super) const TRIES: u32 = 5;

/// How long to wait before the next try, after so many that failed: 100 ms, doubled up to 5 s, of which half is by
/// chance, so that many who failed together do not come back together.
pub(super) fn pause(failed: u32) -> Duration {
    let whole = Duration::from_millis(100) * 2_u32.pow(failed.saturating_sub(1).min(6));
    jitter(whole.min(Duration::from_secs(5)))
}

/// Between half of a time and all of it.
pub(super) fn jitter(whole: Duration) -> Duration {
    let chance = RandomState::new().hash_one(0) as u32;
    whole / 2 + (whole / 2).mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

/// Asks until there is an answer or a failure that does not pass.
pub(super) async fn retry<T>(mut ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let mut failed = 0;
    loop {
        match ask().await {
            Err(failure) if failure.is_passing() && failed + 1 < TRIES => {
                failed += 1;
                tokio::time::sleep(pause(failed)).await;
            }
            end => return end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_seconds() {
        for (failed, most) in [(1, 100), (2, 200), (3, 400), (7, 5000), (40, 5000)] {
            let most = Duration::from_millis(most);
            let pause = pause(failed);
            assert!(most / 2 <= pause && pause <= most, "{failed}: {pause:?}");
        }
        let some: std::collections::BTreeSet<Duration> = (0..20).map(|_| pause(9)).collect();
        assert!(some.len() > 10, "{some:?}");
    }

    fn tries(kind: &Kind) -> u32 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut asked = 0;
        let failed = runtime.block_on(retry(async || {
            asked += 1;
            Err::<(), _>(Failure::new(kind.clone(), "no"))
        }));
        assert_eq!(failed.unwrap_err().text, "no");
        asked
    }

    #[test]
    fn only_what_passes_is_tried_again() {
        assert_eq!(tries(&Kind::Passing), TRIES);
        assert_eq!(tries(&Kind::Denied), 1);
        assert_eq!(tries(&Kind::Missing(Vec::new())), 1);
    }
}
