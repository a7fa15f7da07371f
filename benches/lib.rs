//! Nothing: this package holds benches alone.
