//! Paths and queries of the Hub protocol and of `/v1`.
#![no_main]

use std::cell::RefCell;

use genebank_fuzz::Connection;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static CONNECTION: RefCell<Connection> = RefCell::default();
}

fuzz_target!(|data: &[u8]| {
    // A target holds only visible characters; others are sent as their codes.
    let target: String = data
        .iter()
        .map(|byte| if byte.is_ascii_graphic() { char::from(*byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    if target.len() < 8192 {
        let request = format!("GET /{target} HTTP/1.1\r\nhost: x\r\n\r\n");
        CONNECTION.with_borrow_mut(|connection| connection.ask(request.as_bytes()));
    }
});
