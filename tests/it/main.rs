//! Behaviour across modules: one binary, one file for each subject.

mod cli;
mod client;
mod conformance;
mod hostile;
mod http;
mod support;
