//! The command line `sophia`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(sophia_core::cli::run(std::env::args_os())),
        Err(error) => {
            // There is no log yet, and nobody else to tell.
            #[allow(clippy::print_stderr)]
            {
                eprintln!("error: no runtime: {error}");
            }
            ExitCode::FAILURE
        }
    }
}
