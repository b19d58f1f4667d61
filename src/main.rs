//! The `redbreast` program: see [`redbreast::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    redbreast::cli::main()
}
