//! What the engine's thread tells those who use the engine without being asked. Must not know why.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// State that two threads share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Jobs that may be with the server now.
    pub capacity: AtomicUsize,
    /// Whether the server was asked once, with whatever answer.
    tried: Mutex<bool>,
    /// Bytes of files that were sent and received, before any compression.
    pub sent: AtomicU64,
    pub received: AtomicU64,
    tell_tried: Condvar,
    notes: Mutex<Vec<String>>,
    warnings: Mutex<Vec<String>>,
}

impl Shared {
    pub fn set_tried(&self) {
        *self.tried.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.tell_tried.notify_all();
    }

    /// Waits until the server was asked once, but no longer than this.
    pub fn wait_tried(&self, most: Duration) -> bool {
        let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.tell_tried.wait_timeout_while(tried, most, |tried| !*tried);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// A sentence for the verbose log; the same one is kept once.
    pub fn note(&self, text: String) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if !notes.contains(&text) {
            notes.push(text);
        }
    }

    pub fn warn(&self, text: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
