//! The `systole` command: parse, run, exit code. Everything else is in the library.

use systole::cli;

#[global_allocator]
static ALLOCATOR: cli::allocator::ByCommand = cli::allocator::ByCommand;

fn main() -> std::process::ExitCode {
    cli::main()
}
