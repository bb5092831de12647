//! The `Range` header of a download: the part that is sent is the part that is named.
#![no_main]

use std::cell::RefCell;

use genebank_fuzz::Connection;
use libfuzzer_sys::fuzz_target;

const FILE: &str = "/v1/models/tiny/d2-w4.safetensors";

thread_local! {
    static CONNECTION: RefCell<Connection> = RefCell::default();
    static WHOLE: Vec<u8> = {
        let request = format!("GET {FILE} HTTP/1.1\r\nhost: x\r\n\r\n");
        Connection::default().ask(request.as_bytes()).body
    };
}

fuzz_target!(|data: &[u8]| {
    let value: String = data.iter().map(|byte| char::from(*byte)).filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
    if value.len() > 4096 {
        return;
    }
    let request = format!("GET {FILE} HTTP/1.1\r\nhost: x\r\nrange: {value}\r\n\r\n");
    let answer = CONNECTION.with_borrow_mut(|connection| connection.ask(request.as_bytes()));
    WHOLE.with(|whole| match answer.status {
        200 => assert_eq!(&answer.body, whole),
        206 => {
            let line = answer.head.lines().find_map(|line| line.strip_prefix("content-range: bytes ")).expect("a range");
            let (part, size) = line.split_once('/').expect("a size");
            let (first, last) = part.split_once('-').expect("two numbers");
            let [first, last, size] = [first, last, size].map(|number| number.parse::<usize>().expect("a number"));
            assert_eq!(size, whole.len());
            assert_eq!(answer.body, whole[first..=last]);
        }
        416 => {}
        other => panic!("status {other}"),
    });
});
