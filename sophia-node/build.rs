//! Sets what a Node addon needs from the linker.
fn main() {
    napi_build::setup();
}
