//! Twintree.
fn main() {}
