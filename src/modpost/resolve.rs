//! Joins exports with versions and leaves out what is trimmed, as modpost does it once all
//! files are read. Must not read files.
//!
//! Follows `sym_add_exported()`, `sym_find_with_module()`, `check_exports()` and
//! `write_dump()` of `scripts/mod/modpost.c`, Linux 6.1 to 7.3.

use std::collections::HashMap;
use std::path::PathBuf;

use super::dump::Line;
use super::versions::Versions;
use super::{Part, Record, Symbol, Symvers};
use crate::error::{Error, Result};

/// How many mistakes an error names.
const NAMED: usize = 10;

/// A symbol while its version and its users are sought.
struct Exported<'a> {
    part: usize,
    symbol: Symbol,
    used: bool,
    /// The record that gave the version.
    record: Option<&'a PathBuf>,
}

/// All symbols of all parts, and where each one's name is.
struct Table<'a> {
    exported: Vec<Exported<'a>>,
    places: HashMap<String, usize>,
}

/// `keep` are the names of the white list, if unused exports are to be trimmed.
pub(super) fn resolve(
    parts: &[Option<Part>],
    versions: Vec<(&Record, Versions)>,
    keep: Option<Vec<String>>,
    with_versions: bool,
) -> Result<Symvers> {
    let mut found = Symvers { with_versions, ..Symvers::default() };
    let mut table = gather(parts, &mut found.warnings)?;
    for (record, versions) in versions {
        if versions.skipped > 0 {
            found.skipped.push((record.path.clone(), versions.skipped));
        }
        table.set_versions(record, versions, &mut found.warnings);
    }
    if let Some(names) = keep {
        table.trim(parts, &names, with_versions);
    }
    found.symbols = table.exported.into_iter().map(|exported| exported.symbol).collect();
    Ok(found)
}

/// Collects the exports. A name may be exported once.
fn gather<'a>(parts: &[Option<Part>], warnings: &mut Vec<String>) -> Result<Table<'a>> {
    let mut table = Table { exported: Vec::new(), places: HashMap::new() };
    let mut errors = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let Some(part) = part else {
            continue;
        };
        let module = &part.module;
        warnings.extend(part.object.warnings.iter().map(|warning| format!("{module}: {warning}")));
        errors.extend(part.object.errors.iter().map(|error| (module.clone(), error.clone())));
        for export in &part.object.exports {
            let line = Line {
                crc: 0,
                name: export.name.clone(),
                module: module.clone(),
                gpl_only: export.gpl_only,
                namespace: export.namespace.clone(),
            };
            if let Some(twin) = table.places.insert(export.name.clone(), table.exported.len()) {
                let other = &table.exported[twin].symbol.line.module;
                errors.push((
                    module.clone(),
                    format!("'{}' is exported twice, first by {other}", export.name),
                ));
            }
            let symbol = Symbol { line, versioned: false };
            table.exported.push(Exported { part: at, symbol, used: false, record: None });
        }
    }
    match errors.first() {
        None => Ok(table),
        Some((module, _)) => Err(mistakes(module, &errors)),
    }
}

fn mistakes(module: &str, errors: &[(String, String)]) -> Error {
    let ours = errors.iter().filter(|(of, _)| of == module).map(|(_, error)| error.as_str());
    let mut named: Vec<&str> = ours.take(NAMED).collect();
    let more = format!("and {} more", errors.len() - named.len());
    if errors.len() > named.len() {
        named.push(&more);
    }
    let object = format!("{module}.o");
    Error::bad_input(object, named.join(", "), "correct the export, and build it again with make")
}

impl<'a> Table<'a> {
    /// The symbol that another one's name means: on PPC64, `.foo` is `foo`.
    fn find(&mut self, name: &str) -> Option<&mut Exported<'a>> {
        let at = *self.places.get(name.strip_prefix('.').unwrap_or(name))?;
        self.exported.get_mut(at)
    }

    /// The last version of a symbol counts; those of symbols that are not exported are left
    /// out, as genksyms gives them for trimmed exports too.
    fn set_versions(&mut self, record: &'a Record, found: Versions, warnings: &mut Vec<String>) {
        for (name, crc) in found.found {
            let Some(exported) = self.find(&name).filter(|e| e.part == record.part) else {
                continue;
            };
            if exported.symbol.versioned && exported.symbol.line.crc != crc {
                let was = exported.symbol.line.crc;
                let first = exported.record.unwrap_or(&record.path).display();
                let last = record.path.display();
                warnings.push(format!(
                    "'{name}' has the version 0x{was:08x} in {first}, and 0x{crc:08x} \
                     in {last}, which is used"
                ));
            }
            exported.symbol.line.crc = crc;
            exported.symbol.versioned = true;
            exported.record = Some(&record.path);
        }
    }

    /// Leaves out what nobody uses. Objects of Linux 6.4 and earlier were trimmed before.
    fn trim(&mut self, parts: &[Option<Part>], names: &[String], with_versions: bool) {
        for (at, part) in parts.iter().enumerate() {
            let Some(part) = part else {
                continue;
            };
            part.object.keep.iter().for_each(|name| self.use_by(name, None));
            if part.module != "vmlinux" {
                part.object.undefined.iter().for_each(|name| self.use_by(name, Some(at)));
                if with_versions {
                    // modpost's own, to check a module's struct module.
                    self.use_by("module_layout", Some(at));
                }
            }
        }
        names.iter().for_each(|name| self.use_by(name, None));
        let trims = |at: usize| {
            parts.get(at).and_then(Option::as_ref).is_none_or(|p| p.object.has_export_section)
        };
        self.exported.retain(|exported| exported.used || !trims(exported.part));
    }

    /// Notes a user; a part's use of its own symbols is none.
    fn use_by(&mut self, name: &str, part: Option<usize>) {
        if let Some(exported) = self.find(name).filter(|exported| Some(exported.part) != part) {
            exported.used = true;
        }
    }
}
