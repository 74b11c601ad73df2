//! The program `kthinlto`: the library's command line, and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    kthinlto::cli::main()
}
