//! What a module's index (`X.o.thinlto.bc`) says it imports from others: how many functions
//! and variables, and how large the functions are.
//!
//! Format: llvm/Bitcode/LLVMBitCodes.h and BitcodeReader.cpp (LLVM 15 to 22: what is read here
//! has not moved).

use std::collections::BTreeMap;

use super::bitstream::{self, Malformed, Record, Visitor};

const MODULE_BLOCK: u64 = 8;
const MODULE_STRTAB_BLOCK: u64 = 19;
const GLOBALVAL_SUMMARY_BLOCK: u64 = 20;
/// `MST_CODE_ENTRY`: module id, then its path, a character an operand.
const MODULE_ENTRY: u64 = 1;
/// `FS_COMBINED` and `FS_COMBINED_PROFILE`: value id, module id, flags, instructions, …
const FUNCTION: [u64; 2] = [4, 5];
/// `FS_COMBINED_GLOBALVAR_INIT_REFS`: value id, module id, …
const VARIABLE: u64 = 6;

/// What is imported from one module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weight {
    /// Functions.
    pub functions: u64,
    /// LLVM instructions of these, as the front end left them.
    pub instructions: u64,
    /// Variables.
    pub variables: u64,
}

/// What an index holds of each module in it, the indexed one included, by path.
///
/// # Errors
/// Where it is no index that can be read.
pub fn weights(index: &[u8]) -> Result<BTreeMap<String, Weight>, Malformed> {
    let mut summary = Summary::default();
    bitstream::walk(index, &mut summary)?;
    let Summary { mut paths, weights } = summary;
    let named = weights.into_iter().map(|(id, weight)| {
        let path = paths.remove(&id).ok_or(Malformed("a summary of an unnamed module"))?;
        Ok((path, weight))
    });
    named.collect()
}

#[derive(Default)]
struct Summary {
    paths: BTreeMap<u64, String>,
    weights: BTreeMap<u64, Weight>,
}

impl Visitor<'_> for Summary {
    fn wants(&mut self, block: u64) -> bool {
        matches!(block, MODULE_BLOCK | MODULE_STRTAB_BLOCK | GLOBALVAL_SUMMARY_BLOCK)
    }

    fn record(&mut self, block: u64, record: &Record<'_>) {
        match (block, record.ops.as_slice()) {
            (MODULE_STRTAB_BLOCK, [id, path @ ..]) if record.code == MODULE_ENTRY => {
                let bytes: Vec<u8> = path.iter().map(|byte| *byte as u8).collect();
                self.paths.insert(*id, String::from_utf8_lossy(&bytes).into_owned());
            }
            (GLOBALVAL_SUMMARY_BLOCK, [_, id, _, size, ..]) if FUNCTION.contains(&record.code) => {
                let weight = self.weights.entry(*id).or_default();
                weight.functions += 1;
                weight.instructions = weight.instructions.saturating_add(*size);
            }
            (GLOBALVAL_SUMMARY_BLOCK, [_, id, ..]) if record.code == VARIABLE => {
                self.weights.entry(*id).or_default().variables += 1;
            }
            _ => {}
        }
    }
}
