//! The emulator of AWS comes and goes with its handle.

use std::net::TcpStream;

use sim::Aws;

fn listens(aws: &Aws) -> bool {
    TcpStream::connect(aws.endpoint().trim_start_matches("http://")).is_ok()
}

#[test]
fn an_emulator_answers_from_its_start_to_its_end_and_leaves_nothing() {
    let Some(first) = Aws::start().unwrap() else { return };
    let Some(second) = Aws::start().unwrap() else { return };
    assert_ne!(first.endpoint(), second.endpoint());
    let endpoint = first.endpoint();
    let address = endpoint.trim_start_matches("http://");
    assert!(listens(&first) && listens(&second));
    drop(first);
    assert!(TcpStream::connect(address).is_err());
    assert!(listens(&second));
}

#[test]
fn tests_of_one_process_share_an_emulator_and_take_names_of_their_own() {
    let Some(one) = Aws::shared().unwrap() else { return };
    let Some(other) = Aws::shared().unwrap() else { return };
    assert_eq!(one.endpoint(), other.endpoint());
    assert_ne!(one.name("bucket"), other.name("bucket"));
}
