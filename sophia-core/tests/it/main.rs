//! Integration tests of the core, one module for each capability.

mod health;
