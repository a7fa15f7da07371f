//! The program `arc`.

use std::process::ExitCode;

use arc_encoder::Invocation;

fn main() -> ExitCode {
    ExitCode::from(arc_encoder::run(Invocation::of_this_process()))
}
