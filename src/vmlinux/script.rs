//! What a kernel's `scripts/link-vmlinux.sh` does beyond the links themselves, read from its text.
//! Must not run anything.
//!
//! Format: the script of Linux 6.12 and 7.3.

use super::kallsyms::{Addresses, Options};
use crate::environment::Environment;
use crate::kbuild::auto_conf::AutoConf;

/// Options of the kernel that only the script has the steps of
const ONLY_THE_SCRIPT: [&str; 2] = ["CONFIG_DEBUG_INFO_BTF", "CONFIG_ARCH_WANTS_PRE_LINK_VMLINUX"];
/// Variables that do so.
const VARIABLES: [&str; 2] = ["KALLSYMS_EXTRA_PASS", "WARN_ON_UNUSED_TRACEPOINTS"];

/// What is to be done for one configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Options of `scripts/kallsyms`; `None` in a kernel without kallsyms.
    pub kallsyms: Option<Vec<String>>,
    /// Whether tables are sorted, and whether `sorttable` is given the symbols then.
    pub sorttable: Option<bool>,
}

impl Script {
    /// Reads the script. `None` where it does what is not known here.
    pub fn read(text: &str, conf: &AutoConf, environment: &Environment) -> Option<Self> {
        let set = |name: &&str| environment.get(name).is_some_and(|value| !value.is_empty());
        if ONLY_THE_SCRIPT.iter().any(|option| conf.is_on(option)) || VARIABLES.iter().any(set) {
            return None;
        }
        let filtered = text.contains("-n \"${1}\" | sed -f \"${srctree}/scripts/mksysmap\"");
        filtered.then(|| Script {
            kallsyms: conf.is_on("CONFIG_KALLSYMS").then(|| options(text, conf)),
            sorttable: conf
                .is_on("CONFIG_BUILDTIME_TABLE_SORT")
                .then(|| text.contains("scripts/sorttable -s")),
        })
    }
}

/// `if is_enabled A || is_enabled B; then` and on the next line `kallsymopt="… --OPTION"`.
fn options(text: &str, conf: &AutoConf) -> Vec<String> {
    let mut options = Vec::new();
    let mut condition = "";
    for line in text.lines().map(str::trim) {
        if let Some(option) = line.strip_prefix("kallsymopt=\"${kallsymopt} ")
            && condition
                .split("is_enabled ")
                .skip(1)
                .any(|rest| conf.is_on(rest.split([' ', ';']).next().unwrap_or_default()))
        {
            options.push(option.trim_end_matches('"').to_owned());
        }
        condition = line;
    }
    options
}

impl Options {
    /// What options of `scripts/kallsyms` mean; `None` for one that is not known.
    pub fn parse(words: &[String], has_base: bool) -> Option<Self> {
        let addresses = if has_base { Addresses::BaseRelative } else { Addresses::Absolute };
        let mut options = Options { all_symbols: false, absolute_percpu: false, addresses };
        for word in words {
            match word.as_str() {
                "--all-symbols" => options.all_symbols = true,
                "--absolute-percpu" if has_base => options.absolute_percpu = true,
                "--pc-relative" if !has_base => options.addresses = Addresses::PcRelative,
                _ => return None,
            }
        }
        Some(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "	if is_enabled CONFIG_KALLSYMS_ALL; then
		kallsymopt=\"${kallsymopt} --all-symbols\"
	fi
	if is_enabled CONFIG_64BIT || is_enabled CONFIG_RELOCATABLE; then
		kallsymopt=\"${kallsymopt} --pc-relative\"
	fi
	${NM} -n \"${1}\" | sed -f \"${srctree}/scripts/mksysmap\" > \"${2}\"
";

    #[test]
    fn options_follow_the_configuration() {
        let none = Environment::default();
        let of = |conf: &str| Script::read(SCRIPT, &AutoConf::parse(conf), &none).unwrap().kallsyms;
        assert_eq!(of(""), None);
        assert_eq!(of("CONFIG_KALLSYMS=y\n"), Some(vec![]));
        let all = "CONFIG_KALLSYMS=y\nCONFIG_KALLSYMS_ALL=y\nCONFIG_RELOCATABLE=y\n";
        let words = of(all).unwrap();
        assert_eq!(words, ["--all-symbols", "--pc-relative"]);
        let options = Options::parse(&words, false).unwrap();
        assert_eq!((options.all_symbols, options.addresses), (true, Addresses::PcRelative));
        assert_eq!(Options::parse(&words, true), None);
        assert_eq!(Options::parse(&["--lto-clang".to_owned()], true), None);
    }

    #[test]
    fn what_only_the_script_does_is_left_to_it() {
        let with = |variable: (&str, &str), text: &str, conf: &str| {
            Script::read(text, &AutoConf::parse(conf), &Environment::from_iter([variable]))
        };
        assert!(with(("KALLSYMS_EXTRA_PASS", ""), SCRIPT, "").is_some());
        assert_eq!(with(("KALLSYMS_EXTRA_PASS", "1"), SCRIPT, ""), None);
        let read = |text: &str, conf: &str| with(("HOME", "/"), text, conf);
        assert_eq!(read(SCRIPT, "CONFIG_DEBUG_INFO_BTF=y\n"), None);
        // 6.1 had a shell script for System.map.
        assert_eq!(read("${CONFIG_SHELL} scripts/mksysmap ${1} ${2}", ""), None);
    }
}
