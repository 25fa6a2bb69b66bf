//! Python binding: it converts types, errors, cancellation and streams, and decides nothing.
//!
//! | to | open |
//! |---|---|
//! | see what Python sees of the engine | `engine` |
//! | follow an await | `pending` |
//! | follow a Python function that Rust calls | `callback` |
//! | follow a value in or out | `convert` |
//! | follow an error | `error` |
//! | follow an HTTP request of an ASGI server | `http` |
//! | follow a line of the log | `logs` |
//! | see fork, exit and Ctrl-C | `runtime`, `per_process` |

mod callback;
mod convert;
mod engine;
mod error;
mod http;
mod logs;
mod pending;
mod per_process;
mod runtime;
mod stream;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
fn _sophia(module: &Bound<'_, PyModule>) -> PyResult<()> {
    runtime::install(module.py())?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<http::HttpSurface>()?;
    module.add_class::<stream::Stream>()?;
    module.add_function(wrap_pyfunction!(engine::config_schema, module)?)?;
    module.add_function(wrap_pyfunction!(engine::operations, module)?)?;
    module.add_function(wrap_pyfunction!(engine::refuse_misspelt, module)?)?;
    module.add_function(wrap_pyfunction!(engine::result_types, module)?)?;
    module.add_function(wrap_pyfunction!(http::command_line, module)?)?;
    module.add_function(wrap_pyfunction!(runtime::has_begun, module)?)?;
    module.add_function(wrap_pyfunction!(error::error_codes, module)?)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
