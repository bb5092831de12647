//! Behaviour across modules: one binary, one file for each subject.

mod cli;
mod conformance;
mod golden;
mod hostile;
mod http;
mod laws;
mod learning;
mod support;
