//! Tests of behaviour across modules: one binary, with one file for each subject.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod baselines;
mod candle;
mod ci_example;
mod cli;
mod client;
mod conformance;
mod data;
mod faults;
mod flags;
mod folder;
mod frames;
mod golden;
mod hf_hub;
mod hostile;
mod http;
mod hub;
mod kill;
mod laws;
mod learning;
mod lock;
mod nested;
mod once;
mod outputs;
mod overload;
mod own_data;
mod pages;
mod patience;
mod pins;
mod plan;
mod proxy;
mod ranges;
mod relay;
mod retarget;
mod room;
mod shipped;
mod signals;
mod study;
mod support;
mod tls;
mod tuning;
mod ways;
mod web;
mod wire;
