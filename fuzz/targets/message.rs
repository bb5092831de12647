//! A message of the protocol, from its bytes to the answer: decoded, converted, planned and served, as gRPC-Web.
#![no_main]

use std::cell::RefCell;

use genebank_fuzz::Connection;
use libfuzzer_sys::fuzz_target;

const CALLS: [&str; 5] = ["InitModel", "PlanModel", "DownloadModel", "GetGene", "ListGenes"];

thread_local! {
    static CONNECTION: RefCell<Connection> = RefCell::default();
}

fuzz_target!(|data: &[u8]| {
    let Some((call, message)) = data.split_first() else { return };
    let call = CALLS[usize::from(*call) % CALLS.len()];
    let head = format!(
        "POST /genebank.v1.GeneBank/{call} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web+proto\r\n\
         content-length: {}\r\n\r\n\0",
        5 + message.len(),
    );
    let request = [head.as_bytes(), &(message.len() as u32).to_be_bytes(), message].concat();
    let answer = CONNECTION.with_borrow_mut(|connection| connection.ask(&request));
    // UNKNOWN, INTERNAL and DATA_LOSS are failures of the server, whatever it was asked.
    let said = answer.head + &String::from_utf8_lossy(&answer.body);
    for code in ["2", "13", "15"] {
        assert!(!said.contains(&format!("grpc-status:{code}\r")), "{said}");
        assert!(!said.contains(&format!("grpc-status: {code}\r")), "{said}");
    }
});
