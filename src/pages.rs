//! The gateway's own pages and answers.

pub mod problem;
pub mod render;
pub mod reply;
mod words;
