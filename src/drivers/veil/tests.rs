//! What is sent, and what the library sees.

use super::*;

fn request(uri: &str) -> Request<()> {
    Request::post(uri).header("authorization", "hush").header("host", "said.example").body(()).unwrap()
}

fn unsent(veil: &Veil) -> String {
    String::from_utf8(veil.0.lock().unsent.clone()).unwrap()
}

#[test]
fn the_library_is_given_the_host_and_stand_ins_only() {
    let veil = Veil::default();
    let given = veil.begin(&request("https://h:1/hush?token=hush"), Length::Bytes(4)).unwrap();
    assert_eq!(given.uri().to_string(), "https://h:1/");
    assert!(given.headers().is_empty());
    assert_eq!(veil.body(b"hush"), b"****");
    let sent = unsent(&veil);
    assert!(sent.starts_with("POST /hush?token=hush HTTP/1.1\r\nhost: said.example\r\n"), "{sent}");
    assert!(sent.contains("\r\nauthorization: hush\r\n") && sent.contains("\r\ncontent-length: 4\r\n"), "{sent}");
    assert!(sent.ends_with("\r\n\r\nhush"), "{sent}");
}

#[test]
fn a_streamed_body_is_sent_in_chunks() {
    let veil = Veil::default();
    veil.begin(&request("http://h/"), Length::Unknown).unwrap();
    let mut given = Vec::new();
    veil.streamed(&mut (&b"hush"[..]).chain(&b"hush"[..])).read_to_end(&mut given).unwrap();
    assert_eq!(given, b"********");
    let sent = unsent(&veil);
    assert!(sent.contains("\r\ntransfer-encoding: chunked\r\n"), "{sent}");
    assert!(sent.ends_with("\r\n\r\n4\r\nhush\r\n4\r\nhush\r\n0\r\n\r\n"), "{sent}");
}

#[test]
fn what_was_not_received_is_not_revealed() {
    let veil = Veil::default();
    veil.0.lock().unread.extend(b"hush");
    let mut read = *b"****";
    veil.reveal(&mut read[..3]).unwrap();
    assert_eq!(&read, b"hus*");
    assert!(veil.reveal(&mut read).is_err());
    assert!(!format!("{veil:?}").contains("hus"));
}
