//! What is linked from bitcode as one: vmlinux, or a loadable module. A run of the stage holds many,
//! and an object may be a part of several, each of which has its own index and native object for it.
//! Must not know how anything is made.
//!
//! Names of vmlinux's files are those of Linux 7.2 (`scripts/Makefile.vmlinux_a`,
//! `scripts/Makefile.thinlto`). Those of other units have the unit's name in them, and endings that
//! the same patterns of `make clean` and `.gitignore` match.

use std::borrow::Cow;
use std::sync::Arc;

use crate::kbuild::cmd_file::front_ends_name;
use crate::kbuild::module::Module;

/// The name of the kernel itself among units.
pub const VMLINUX: &str = "vmlinux";

/// The kernel's members before LTO, under mainline's name.
pub const FIXUP: &str = "built-in-fixup.a";
/// The kernel's members in link order, under mainline's name.
pub const ORDER: &str = "builtin.order";
/// The list of the kernel's indexed objects, under mainline's name.
pub const INDEXED: &str = "vmlinux.thinlto-index";
/// The kernel's members after LTO: what it is linked from.
pub const ARCHIVE: &str = "vmlinux.a";

/// Something that is linked from objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name: `vmlinux`, or a module's path without its ending, as in `fs/xfs/xfs`.
    pub name: String,
    /// Its objects, in link order.
    pub members: Vec<String>,
    /// Names of the files that are made for it.
    pub outputs: Outputs,
    /// How one object is linked from it, if one is.
    pub link: Option<ObjectLink>,
}

/// How the object of a module is linked from its parts after LTO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectLink {
    /// The object: `fs/xfs/xfs.o`.
    pub object: String,
    /// The linker with its flags, as words.
    pub linker: Vec<String>,
    /// Commands that then change the object in place, without its name, which is their last word.
    pub after: Vec<Vec<String>>,
}

/// Names of the files that are made for a unit, below the object tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs {
    /// All members before LTO, as a thin archive with symbols, if one is wanted.
    pub fixup: Option<String>,
    /// The members in link order, one a line.
    pub order: String,
    /// The indexed objects, one a line.
    pub indexed: String,
    /// All members after LTO, native objects in the places of their bitcode: as a thin archive, or where
    /// an object is linked from them as a list, one a line.
    pub natives: String,
}

impl Unit {
    /// The kernel itself, with mainline's names.
    pub fn vmlinux(members: Vec<String>) -> Self {
        Unit { name: VMLINUX.to_owned(), members, outputs: Outputs::vmlinux(), link: None }
    }

    /// Any other unit.
    pub fn new(name: impl Into<String>, members: Vec<String>) -> Self {
        let name = name.into();
        let outputs = Outputs {
            fixup: None,
            order: format!("{name}.thinlto-order"),
            indexed: format!("{name}.thinlto-index"),
            natives: format!("{name}.thinlto-native.a"),
        };
        Unit { name, members, outputs, link: None }
    }

    /// A loadable module, of whose object make recorded how it is linked.
    pub fn module(module: Module) -> Self {
        let Module { object, parts, linker, after } = module;
        let outputs = Outputs::module(&object);
        let name = object.strip_suffix(".o").unwrap_or(&object).to_owned();
        let link = Some(ObjectLink { object, linker, after });
        Unit { name, members: parts, outputs, link }
    }

    /// What the names of its parts' files have in them: nothing for vmlinux, else the last part of
    /// its name, which is its own in a kernel (`scripts/modules-check.sh`).
    pub fn qualifier(&self) -> Option<Arc<str>> {
        let last = self.name.rsplit('/').next().unwrap_or(&self.name);
        (self.name != VMLINUX).then(|| last.into())
    }
}

impl Outputs {
    /// Those of the kernel itself.
    pub fn vmlinux() -> Self {
        Outputs {
            fixup: Some(FIXUP.to_owned()),
            order: ORDER.to_owned(),
            indexed: INDEXED.to_owned(),
            natives: ARCHIVE.to_owned(),
        }
    }

    /// Those of a module whose object this is.
    pub fn module(object: &str) -> Self {
        Outputs {
            fixup: None,
            order: format!("{object}.thinlto-order"),
            indexed: format!("{object}.thinlto-index"),
            natives: format!("{object}.thinlto-native"),
        }
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        let others = [&self.order, &self.indexed, &self.natives];
        self.fixup.iter().chain(others).map(String::as_str)
    }
}

/// A bitcode object as a part of one unit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part {
    /// The object, as the archive and the linker name it.
    pub object: String,
    /// The unit's qualifier; none for vmlinux.
    pub unit: Option<Arc<str>>,
}

impl Part {
    /// A part of vmlinux.
    pub fn of_vmlinux(object: impl Into<String>) -> Self {
        Part { object: object.into(), unit: None }
    }

    /// Name of its index: `a/b.o.thinlto.bc` (lld's, LLVM 7 and later), or `a/b.o.xfs.thinlto.bc`.
    pub fn index(&self) -> String {
        match &self.unit {
            None => format!("{}.thinlto.bc", self.object),
            Some(unit) => format!("{}.{unit}.thinlto.bc", front_ends_name(&self.object)),
        }
    }

    /// Name of its native object: `a/b.thinlto-native.o`, or `a/b.xfs.thinlto-native.o`.
    pub fn native(&self) -> String {
        let made = front_ends_name(&self.object);
        let stem = made.strip_suffix(".o").unwrap_or(&made);
        match &self.unit {
            None => format!("{stem}.thinlto-native.o"),
            Some(unit) => format!("{stem}.{unit}.thinlto-native.o"),
        }
    }

    /// Another object of the same unit.
    pub fn beside(&self, object: &str) -> Self {
        Part { object: object.to_owned(), unit: self.unit.clone() }
    }

    /// What it is called where a person reads: the object, and the unit if that is not vmlinux.
    pub fn label(&self) -> Cow<'_, str> {
        match &self.unit {
            None => self.object.as_str().into(),
            Some(unit) => format!("{} ({unit})", self.object).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_files_of_its_own_in_each_unit() {
        let units = ["vmlinux", "fs/xfs/xfs"].map(|name| match name {
            VMLINUX => Unit::vmlinux(Vec::new()),
            name => Unit::new(name, Vec::new()),
        });
        let parts = units.map(|unit| Part { object: "fs/a.pi.o".into(), unit: unit.qualifier() });
        let natives = parts.each_ref().map(Part::native);
        assert_eq!(natives, ["fs/a.pi.thinlto-native.o", "fs/a.pi.xfs.thinlto-native.o"]);
        let indexes = parts.each_ref().map(Part::index);
        assert_eq!(indexes, ["fs/a.pi.o.thinlto.bc", "fs/a.pi.o.xfs.thinlto.bc"]);
        assert_eq!(parts.map(|part| part.label().into_owned()), ["fs/a.pi.o", "fs/a.pi.o (xfs)"]);
    }
}
