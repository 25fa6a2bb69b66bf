//! Integration tests of the core, one module for each capability.

mod health;
//! Every integration test of the crate, in one binary.

mod registry;
