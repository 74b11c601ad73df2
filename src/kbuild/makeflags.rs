//! What GNU make tells a recipe through `MAKEFLAGS`: `-n`, `-q`, `-t`, `-k`, `-s`, how many jobs,
//! at which load, and where the jobserver is. Pure text in, values out; it must not open anything.
//!
//! Format: GNU make manual, "Communicating Options to a Sub-make" and "POSIX
//! Jobserver Interaction" (4.3 and 4.4).

use std::path::PathBuf;

/// Where make's jobserver is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// `R,W`: descriptors of an inherited pipe.
    Pipe {
        /// Tokens are read here.
        read: i32,
        /// And written back here.
        write: i32,
    },
    /// `fifo:PATH` (make 4.4 and later).
    Fifo(PathBuf),
    /// `-2,-2` or another negative descriptor: make has disabled it for this recipe.
    Disabled,
    /// A form that this version does not know; the text is kept for the warning.
    Unknown(String),
}

/// How many jobs `-j` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jobs {
    /// `-jN`.
    Limit(usize),
    /// `-j` with no number.
    Unlimited,
}

/// The parts of `MAKEFLAGS` that concern us.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MakeFlags {
    /// `-n`: print, don't run.
    pub dry_run: bool,
    /// `-q`: run nothing, and say by the exit code whether there is something to do.
    pub question: bool,
    /// `-t`: touch files instead of making them.
    pub touch: bool,
    /// `-k`: go on after a failure.
    pub keep_going: bool,
    /// `-s`: say nothing.
    pub silent: bool,
    /// `-O` in any form but `-Onone`: make collects the output of recipes. It lets those that
    /// begin with `+` write to the terminal all the same, unless it is `-Orecurse`.
    pub output_sync: bool,
    /// `-j`, if given.
    pub jobs: Option<Jobs>,
    /// `-l`, if given: no second job while more than this many processes run on the machine.
    pub load: Option<f64>,
    /// The jobserver; the last one named wins.
    pub auth: Option<Auth>,
}

impl MakeFlags {
    /// Reads a `MAKEFLAGS` value. Unknown options are passed over.
    pub fn parse(text: &str) -> Self {
        let mut flags = MakeFlags::default();
        for (position, word) in text.split(' ').enumerate() {
            match word {
                "--" => break,
                "" => {}
                // Single letters come first and without a dash; a variable there has a `=`.
                _ if position == 0 && !word.starts_with('-') => {
                    if !word.contains('=') {
                        flags.take_letters(word);
                    }
                }
                _ => flags.take_option(word),
            }
        }
        flags
    }

    fn take_letters(&mut self, letters: &str) {
        self.dry_run |= letters.contains('n');
        self.question |= letters.contains('q');
        self.touch |= letters.contains('t');
        self.keep_going |= letters.contains('k');
        self.silent |= letters.contains('s');
    }

    fn take_option(&mut self, word: &str) {
        let auth = word
            .strip_prefix("--jobserver-auth=")
            .or_else(|| word.strip_prefix("--jobserver-fds="));
        if let Some(auth) = auth {
            self.auth = Some(parse_auth(auth));
        } else if let Some(how) =
            word.strip_prefix("-O").or_else(|| word.strip_prefix("--output-sync="))
        {
            self.output_sync = how != "none";
        } else if let Some(number) = load_limit(word) {
            // No number, and a negative one, mean no limit.
            self.load = number.parse().ok().filter(|limit| *limit >= 0.0);
        } else if let Some(number) = word.strip_prefix("-j") {
            self.jobs = match number.parse() {
                Ok(limit) if limit > 0 => Some(Jobs::Limit(limit)),
                _ => Some(Jobs::Unlimited),
            };
        }
    }
}

/// The number of `-l`, which has two long names.
fn load_limit(word: &str) -> Option<&str> {
    let names = ["--load-average", "--max-load"];
    let long = names.iter().find_map(|name| word.strip_prefix(name));
    match long {
        Some(rest) => rest.strip_prefix('=').or(Some(rest)).filter(|_| !rest.starts_with('-')),
        None => word.strip_prefix("-l"),
    }
}

fn parse_auth(text: &str) -> Auth {
    if let Some(path) = text.strip_prefix("fifo:") {
        return Auth::Fifo(PathBuf::from(path));
    }
    let numbers = text
        .split_once(',')
        .and_then(|(read, write)| Some((read.parse().ok()?, write.parse().ok()?)));
    match numbers {
        Some((read, write)) if read >= 0 && write >= 0 => Auth::Pipe { read, write },
        Some(_) => Auth::Disabled,
        None => Auth::Unknown(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe(read: i32, write: i32) -> Option<Auth> {
        Some(Auth::Pipe { read, write })
    }

    #[test]
    fn letters_are_the_first_word_only() {
        let flags = MakeFlags::parse("rRnks -j4 --jobserver-auth=3,4");
        assert!(flags.dry_run && flags.keep_going && flags.silent);
        assert_eq!(flags.jobs, Some(Jobs::Limit(4)));
        assert_eq!(flags.auth, pipe(3, 4));
        let held = MakeFlags::parse("krqt");
        assert!(held.question && held.touch && !held.dry_run && !flags.question && !flags.touch);
        let none = MakeFlags::parse(" -j4 --jobserver-auth=3,4 -- KTHINLTO=kns");
        assert!(!none.dry_run && !none.keep_going && !none.silent);
        let variable = MakeFlags::parse("knsV=1 -j");
        assert!(!variable.dry_run && !variable.silent);
        assert_eq!(variable.jobs, Some(Jobs::Unlimited));
        let long = MakeFlags::parse("rR --no-print-directory --silent-rules");
        assert!(!long.dry_run && !long.silent);
    }

    #[test]
    fn the_last_jobserver_wins_and_variables_are_not_options() {
        let text =
            "w --jobserver-fds=5,6 --jobserver-auth=fifo:/tmp/GMfifo1 -- --jobserver-auth=7,8";
        let flags = MakeFlags::parse(text);
        assert_eq!(flags.auth, Some(Auth::Fifo("/tmp/GMfifo1".into())));
        assert_eq!(
            MakeFlags::parse("--jobserver-auth=3,4 --jobserver-auth=9,10").auth,
            pipe(9, 10)
        );
    }

    #[test]
    fn negative_descriptors_mean_disabled() {
        assert_eq!(MakeFlags::parse(" --jobserver-auth=-2,-2").auth, Some(Auth::Disabled));
        let odd = MakeFlags::parse(" --jobserver-auth=sem:x").auth;
        assert_eq!(odd, Some(Auth::Unknown("sem:x".into())));
    }

    #[test]
    fn collected_output_is_noticed() {
        let sync = |text| MakeFlags::parse(text).output_sync;
        assert!(sync(" -j2 -Otarget --jobserver-auth=3,4"));
        assert!(sync("k --output-sync=line") && sync(" -O"));
        assert!(!sync(" -j2 -Onone") && !sync(" -Oline -Onone"));
        assert!(!sync("O -j2 -- X=-Oline"));
    }

    #[test]
    fn the_load_is_limited_by_the_last_option() {
        let load = |text| MakeFlags::parse(text).load;
        assert_eq!(load(" -j16 -l2 --jobserver-auth=3,4"), Some(2.0));
        assert_eq!(load("k -l0.75"), Some(0.75));
        assert_eq!(load(" --load-average=3"), Some(3.0));
        assert_eq!(load(" --max-load=4 -l"), None);
        assert_eq!(load("l -j2 -- X=-l2"), None);
    }

    #[test]
    fn empty_says_nothing() {
        assert_eq!(MakeFlags::parse(""), MakeFlags::default());
    }
}
