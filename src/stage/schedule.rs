//! In which order backends run, and what each may need: from what they took last time, else
//! from the size of their bitcode. The longest go first, so that none is left for the end alone.

use crate::store::Cost;

/// CPU time of a backend for each KiB of bitcode, in milliseconds: clang 22 on modules of a
/// Linux 7.3 defconfig took 2.4 (1 MiB) to 4.5 (40 KiB).
const TIME: u64 = 3;
/// Memory in KiB: clang 22 with nothing to do, its shared pages included, and for each KiB
/// of bitcode. The same modules took 91 to 115 MiB.
const LEAST_MEMORY: u64 = 96 << 10;
const MEMORY: u64 = 25;

/// Milliseconds of CPU time that a backend may take.
pub(super) fn time(cost: Option<Cost>, size: u64) -> u64 {
    cost.map_or(size * TIME / 1024, |cost| cost.cpu.into())
}

/// KiB that a backend may need at its peak.
pub(super) fn memory(cost: Option<Cost>, size: u64) -> u64 {
    cost.map_or(LEAST_MEMORY + size * MEMORY / 1024, |cost| cost.peak.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_last_time_counts_more_than_the_size() {
        let cost = Some(Cost { wall: 1, cpu: 7000, peak: 300_000 });
        assert_eq!((time(cost, 10), memory(cost, 10)), (7000, 300_000));
        assert!(time(None, 1 << 20) < 7000 && time(None, 1 << 20) > time(None, 1 << 10));
        // The largest and the smallest module of a defconfig, in KiB: never too little.
        assert!(memory(None, 1_035_136) > 111_864 && memory(None, 5_588) > 90_664);
    }
}
