//! How many threads the environment asks for.

use crate::Failure;

/// The variables that set the size of the pool that everything computes in.
const VARIABLES: [&str; 2] = ["RAYON_NUM_THREADS", "RAYON_RS_NUM_CPUS"];

/// More than any machine has cores. Starting as many as somebody mistyped can take for ever.
const MAX_THREADS: usize = 1024;

/// Refuses a number of threads that no machine has use for, before the pool is made.
pub(crate) fn check() -> Result<(), Failure> {
    for variable in VARIABLES {
        let Some(value) = std::env::var_os(variable) else { continue };
        // What is no number is ignored by the pool, too.
        let asked =
            value.to_str().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
        let Some(asked) = asked else { continue };
        if asked.parse::<usize>().map_or(true, |threads| threads > MAX_THREADS) {
            return Err(Failure::usage(
                format!("`{variable}` asks for {asked} threads, at most {MAX_THREADS} are started"),
                format!("unset `{variable}`: there is a thread for each core then"),
            ));
        }
    }
    Ok(())
}
