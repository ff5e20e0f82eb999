//! What the gateway tells those who run it: metrics and logs.
pub mod labels;
pub mod metrics;
mod process;
mod reference;
