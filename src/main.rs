//! The `outrigger` binary: hand the words and the environment to the library, exit with its code.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrigger::cli::main()
}
