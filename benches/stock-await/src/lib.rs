//! A cached value through the stock awaitable of pyo3-async-runtimes: what an L1 hit costs from Python without a bridge
//! of one's own.

use moka::sync::Cache;
use pyo3::prelude::*;

/// A cache of texts.
#[pyclass(frozen)]
struct Stock {
    cache: Cache<String, String>,
}

#[pymethods]
impl Stock {
    #[new]
    fn new() -> Stock {
        Stock { cache: Cache::new(1_000) }
    }

    fn set(&self, key: String, value: String) {
        self.cache.insert(key, value);
    }

    fn get<'py>(&self, py: Python<'py>, key: String) -> PyResult<Bound<'py, PyAny>> {
        let cache = self.cache.clone();
        pyo3_async_runtimes::tokio::future_into_py(py, async move { Ok(cache.get(&key)) })
    }
}

#[pymodule]
fn stock_await(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Stock>()
}
