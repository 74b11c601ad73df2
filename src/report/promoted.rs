//! Promoted functions as text for a person and as JSON for programs. Must not know where they come from.

use std::fmt::Write;

use serde::Serialize;

/// Version of the JSON's layout; it grows when a field changes its meaning or goes.
pub const VERSION: u32 = 1;

/// Functions that a thin link gave other names.
#[derive(Debug, Clone)]
pub struct Promoted {
    /// The object tree.
    pub tree: String,
    /// The functions: modules in link order, and the names of each in order.
    pub functions: Vec<Function>,
}

/// A promoted function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Function {
    /// Its name, with the number that ThinLTO added.
    pub name: String,
    /// The bitcode object that has it.
    pub object: String,
    /// Whether the linked kernel, or module, has no promoted function of that name; `None` where nothing is
    /// linked.
    pub is_new: Option<bool>,
}

/// How many there are, and a line for each, those that are new first.
pub fn text(promoted: &Promoted) -> String {
    let is_new = |function: &&Function| function.is_new == Some(true);
    let new = promoted.functions.iter().filter(is_new);
    let others = promoted.functions.iter().filter(|function| !is_new(function));
    let count = promoted.functions.len();
    let mut out = format!("{count} promoted function{}", if count == 1 { "" } else { "s" });
    if promoted.functions.iter().any(|function| function.is_new.is_some()) {
        let _ = write!(out, ", {} of them not in what is linked now (new)", new.clone().count());
    }
    out.push('\n');
    for Function { name, object, is_new } in new.chain(others) {
        let mark = if *is_new == Some(true) { "new" } else { "" };
        let _ = writeln!(out, "{mark:>4}  {name}  {object}");
    }
    out
}

/// For programs; docs/json.md says what is in it.
pub fn json(promoted: &Promoted) -> String {
    let all = serde_json::json!({
        "schema": "kthinlto-promoted",
        "version": VERSION,
        "tree": promoted.tree,
        "functions": promoted.functions,
    });
    all.to_string() + "\n"
}
