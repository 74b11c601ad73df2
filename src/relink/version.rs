//! What `uname -v` says of the kernel: kbuild gives each link of vmlinux a number and a date,
//! in a header that one object is compiled with. Knows that header only.
//!
//! Rule: `filechk_uts_version` in `init/Makefile` and `scripts/build-version`
//! (`init/build-version` in 6.1), Linux 6.1 to 7.3.

use std::path::Path;

use crate::error::{Error, Result};
use crate::exec::helper::Helper;
use crate::kbuild::auto_conf::AutoConf;
use crate::regular;
use crate::store::{write_aside, write_if_changed};

/// The header.
pub const HEADER: &str = "include/generated/utsversion.h";
/// The object that is compiled with it.
pub const OBJECT: &str = "init/version-timestamp.o";
/// The number of the last link.
const COUNTER: &str = ".version";
/// Kbuild cuts the text here.
const LONGEST: usize = 64;

/// The parts of a build's identity that were chosen, rather than counted or read off a clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// `KBUILD_BUILD_VERSION`.
    pub number: Option<String>,
    /// `KBUILD_BUILD_TIMESTAMP`, or what an option says.
    pub date: Option<String>,
    /// `KBUILD_BUILD_VERSION_TIMESTAMP`, which comes before it in trees that know it: Debian's.
    pub version_date: Option<String>,
}

impl Identity {
    /// What holds in a tree, whose `init/Makefile` this is.
    pub fn of(&self, makefile: &str) -> Self {
        let knows = makefile.contains("KBUILD_BUILD_VERSION_TIMESTAMP");
        let version_date = self.version_date.clone().filter(|_| knows);
        Identity {
            number: self.number.clone(),
            date: version_date.or_else(|| self.date.clone()),
            version_date: None,
        }
    }

    /// The header's text, if all of it is known before the link.
    pub fn fixed(&self, flags: &[String]) -> Option<String> {
        Some(header(self.number.as_ref()?, flags, self.date.as_ref()?))
    }

    /// Writes the header for a link that is made now.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, tree: &Path, flags: &[String]) -> Result<()> {
        let number = match &self.number {
            Some(number) => number.clone(),
            None => count(tree)?,
        };
        let date = match &self.date {
            Some(date) => date.clone(),
            None => now()?,
        };
        write_if_changed(&tree.join(HEADER), header(&number, flags, &date).as_bytes())?;
        Ok(())
    }
}

fn header(number: &str, flags: &[String], date: &str) -> String {
    let words = std::iter::once(format!("#{number}")).chain(flags.iter().cloned());
    let mut text = words.chain([date.to_owned()]).collect::<Vec<_>>().join(" ").into_bytes();
    text.truncate(LONGEST);
    format!("#define UTS_VERSION \"{}\"\n", String::from_utf8_lossy(&text))
}

/// The next number.
fn count(tree: &Path) -> Result<String> {
    let path = tree.join(COUNTER);
    let last = regular::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let number = last.map_or(1, |last| last.saturating_add(1)).to_string();
    write_aside(&path, format!("{number}\n").as_bytes())?;
    Ok(number)
}

/// The date in the C locale, from the program that kbuild asks.
fn now() -> Result<String> {
    let asked = Helper::new(["date"], Path::new(".")).env("LC_ALL", "C").run();
    let asked = asked.map_err(|failure| failure.into_error(|e| Error::io("run", "date", e)))?;
    Ok(String::from_utf8_lossy(&asked.output).trim().to_owned())
}

/// `SMP`, `PREEMPT_DYNAMIC`, …: lines `NAME-flag-$(CONFIG_X) := WORD` of `init/Makefile`, of
/// which the last that is on gives a name its word.
///
/// # Errors
/// Where there is no such line: the kernel makes the text in another way.
pub fn flags(makefile: &str, conf: &AutoConf) -> Result<Vec<String>> {
    if !makefile.contains("-flag-$(CONFIG_") {
        let found =
            "no line `NAME-flag-$(CONFIG_…) := WORD`, of which the text of `uname -v` is made";
        return Err(Error::bad_input(
            "init/Makefile",
            found,
            "link this kernel with `make vmlinux`",
        ));
    }
    let mut flags: Vec<(&str, String)> = Vec::new();
    for line in makefile.lines() {
        let parsed = line.split_once("-flag-$(").and_then(|(name, rest)| {
            let (option, rest) = rest.split_once(')')?;
            Some((name, option, rest.trim().strip_prefix(":=")?.trim()))
        });
        let Some((name, _, word)) = parsed.filter(|(_, option, _)| conf.is_on(option)) else {
            continue;
        };
        match flags.iter_mut().find(|(known, _)| *known == name) {
            Some(flag) => flag.1 = word.to_owned(),
            None => flags.push((name, word.to_owned())),
        }
    }
    Ok(flags.into_iter().map(|(_, word)| word).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MAKEFILE: &str = "smp-flag-$(CONFIG_SMP)\t\t\t:= SMP\n\
        preempt-flag-$(CONFIG_PREEMPT_BUILD)\t:= PREEMPT\n\
        preempt-flag-$(CONFIG_PREEMPT_DYNAMIC)\t:= PREEMPT_DYNAMIC\n\
        preempt-flag-$(CONFIG_PREEMPT_RT)\t:= PREEMPT_RT\n";

    #[test]
    fn the_last_flag_of_a_name_holds() {
        let conf = |text: &str| AutoConf::parse(text);
        let on = conf("CONFIG_SMP=y\nCONFIG_PREEMPT_BUILD=y\nCONFIG_PREEMPT_DYNAMIC=y\n");
        assert_eq!(flags(MAKEFILE, &on).unwrap(), ["SMP", "PREEMPT_DYNAMIC"]);
        assert_eq!(flags(MAKEFILE, &conf("")).unwrap(), Vec::<String>::new());
        let error = flags("obj-y := main.o version.o\n", &on).unwrap_err();
        assert!(error.to_string().contains("the text of `uname -v` is made"), "{error}");
    }

    #[test]
    fn a_link_is_counted_unless_it_is_told_its_number() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("include/generated")).unwrap();
        let read = || fs::read_to_string(dir.path().join(HEADER)).unwrap();
        let date = Some("Thu Jan  1 00:00:00 UTC 2026".to_owned());
        let counted = Identity { number: None, date, version_date: None };
        let flags = vec!["SMP".to_owned()];
        for number in [1, 2] {
            counted.write(dir.path(), &flags).unwrap();
            let want =
                format!("#define UTS_VERSION \"#{number} SMP Thu Jan  1 00:00:00 UTC 2026\"\n");
            assert_eq!(read(), want);
        }
        assert_eq!(counted.fixed(&flags), None);
        let told = Identity { number: Some("7".to_owned()), ..counted };
        told.write(dir.path(), &flags).unwrap();
        assert_eq!(told.fixed(&flags), Some(read()));
        assert_eq!(fs::read_to_string(dir.path().join(COUNTER)).unwrap(), "2\n");
    }

    #[test]
    fn debians_variable_holds_where_the_tree_knows_it() {
        let text = |text: &str| Some(text.to_owned());
        let both = Identity { number: None, date: text("plain"), version_date: text("Debian") };
        let debian = "preempt\nbuild-timestamp = $(or $(KBUILD_BUILD_VERSION_TIMESTAMP),$(x))\n";
        assert_eq!(both.of(debian).date, text("Debian"));
        assert_eq!(both.of(MAKEFILE).date, text("plain"));
        assert_eq!(Identity { date: None, ..both }.of(MAKEFILE).date, None);
    }

    #[test]
    fn a_long_text_is_cut_as_kbuild_cuts_it() {
        let text = header("1", &[], &"x".repeat(80));
        assert_eq!(text, format!("#define UTS_VERSION \"#1 {}\"\n", "x".repeat(61)));
    }
}
