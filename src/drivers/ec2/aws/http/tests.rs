//! Requests over loopback, with and without TLS.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::{Sender, bounded, unbounded};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::super::surroundings::roots_of;
use super::super::tests::fake::{Request, converse, said, serve, server};
use super::*;

/// Long enough for anything that ends by itself.
const LONG: Duration = Duration::from_secs(60);
/// A cancel is noticed within a second or so.
const SOON: Duration = Duration::from_secs(3);

fn post(http: &Http, uri: &str, limit: Duration, cancel: Option<&Receiver<Infallible>>) -> Result<Answer, NoAnswer> {
    let headers = [("content-type", "text/x".to_owned())];
    http.ask(&Asking { method: Method::POST, uri, headers: &headers, body: b"body" }, limit, cancel)
}

fn plain() -> Http {
    Http::to_provider(RootCerts::WebPki)
}

fn at(address: SocketAddr) -> String {
    format!("http://{address}/")
}

#[test]
fn what_is_signed_is_what_is_sent() {
    let (sees, seen) = unbounded::<Request>();
    let address = server(move |request| {
        sees.send(request.clone()).unwrap();
        (said(418, "Date: Sun, 30 Aug 2015 12:36:00 GMT\r\nRetry-After: 7\r\n", "b\u{e9}"), true)
    });
    let headers = [("host", "said.example:1".to_owned()), ("x-amz-date", "d".to_owned())];
    let uri = at(address);
    let asking = Asking { method: Method::POST, uri: &uri, headers: &headers, body: b"a=b" };
    let answer = plain().ask(&asking, LONG, None).unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (418, "b\u{e9}"));
    assert_eq!(answer.date.as_deref(), Some("Sun, 30 Aug 2015 12:36:00 GMT"));
    assert_eq!(answer.retry_after, Some(Duration::from_secs(7)));
    let request = seen.recv().unwrap();
    assert_eq!(request.line, "POST / HTTP/1.1");
    let of =
        |name| request.headers.iter().filter(|(its, _)| its == name).map(|(_, value)| &**value).collect::<Vec<_>>();
    assert_eq!(of("host"), ["said.example:1"]);
    assert_eq!(of("x-amz-date"), ["d"]);
    assert_eq!(request.body, "a=b");

    // Without a host it is that of the address; and a question without a body has none.
    let asking = Asking { method: Method::GET, uri: &uri, headers: &[], body: b"" };
    plain().ask(&asking, LONG, None).unwrap();
    let request = seen.recv().unwrap();
    assert_eq!(request.header("host"), Some(address.to_string().as_str()));
    assert_eq!(request.header("content-length"), None);
}

#[test]
fn a_connection_is_used_again_until_it_is_closed() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let (closes, closed) = unbounded();
    let address = serve(move |stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        let asked = AtomicUsize::new(0);
        converse(&stream, &move |_: &Request| (said(200, "", "x"), asked.fetch_add(1, Ordering::Relaxed) < 1));
        drop(stream);
        closes.send(()).unwrap();
    });
    let http = plain();
    for number in 1..=4 {
        post(&http, &at(address), LONG, None).unwrap();
        if number % 2 == 0 {
            closed.recv().unwrap();
        }
    }
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}

#[test]
fn what_is_sent_and_not_answered_is_told_from_what_was_never_sent() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(matches!(post(&plain(), &at(nobody), LONG, None), Err(NoAnswer::Unreachable(_))));
    let nonsense = post(&plain(), "http://[", LONG, None);
    assert!(matches!(nonsense, Err(NoAnswer::Unreachable(_))), "{nonsense:?}");

    let whole = said(200, "", "0123456789");
    for cut in [0, 5, whole.len() - 1] {
        let part = whole[..cut].to_owned();
        let address = server(move |_| (part.clone(), false));
        let answer = post(&plain(), &at(address), LONG, None);
        assert!(matches!(answer, Err(NoAnswer::Lost(_))), "{cut}: {answer:?}");
    }
    let endless = format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n", u64::MAX);
    let address = server(move |_| (endless.clone() + &"x".repeat(ANSWER_LIMIT as usize + 1), true));
    assert!(matches!(post(&plain(), &at(address), LONG, None), Err(NoAnswer::Lost(_))));
}

#[test]
fn an_answer_that_does_not_come_is_waited_for_no_longer_than_that() {
    let (_hold, held) = bounded::<()>(0);
    let address = server(move |_| {
        let _ = held.recv();
        (String::new(), false)
    });
    let begun = Instant::now();
    let limit = Duration::from_millis(300);
    assert!(matches!(post(&plain(), &at(address), limit, None), Err(NoAnswer::TimedOut)));
    assert!(begun.elapsed() >= limit && begun.elapsed() < SOON);
    // A metadata service is quick, or it is none.
    let begun = Instant::now();
    let http = Http::to_metadata(RootCerts::WebPki);
    assert!(matches!(post(&http, &at(address), LONG, None), Err(NoAnswer::TimedOut)));
    assert!(begun.elapsed() >= METADATA_LIMIT && begun.elapsed() < METADATA_LIMIT + SOON);
}

#[test]
fn a_redirect_is_an_answer() {
    let address = server(|_| (said(307, "Location: http://127.0.0.1:1/\r\n", ""), true));
    assert_eq!(post(&plain(), &at(address), LONG, None).unwrap().status, 307);
}

/// Cancels when it is told, and says how long it took until the call had ended.
fn cancelled<T>(uri: &str, when: &Receiver<T>) -> bool {
    let (cancel, signal) = bounded::<Infallible>(0);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| post(&plain(), uri, LONG, Some(&signal)));
        when.recv().unwrap();
        let begun = Instant::now();
        drop::<Sender<Infallible>>(cancel);
        let answer = call.join().unwrap();
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        match answer {
            Err(NoAnswer::Cancelled { sent }) => sent,
            other => panic!("{other:?}"),
        }
    })
}

#[test]
fn a_cancel_ends_the_wait_for_an_answer() {
    let (tells, told) = unbounded();
    let (_hold, held) = bounded::<()>(0);
    let address = server(move |_| {
        tells.send(()).unwrap();
        let _ = held.recv();
        (String::new(), false)
    });
    assert!(cancelled(&at(address), &told));
}

#[test]
fn what_was_cancelled_before_is_not_sent() {
    let (sees, seen) = unbounded();
    let address = server(move |_| {
        sees.send(()).unwrap();
        (said(200, "", ""), true)
    });
    let (cancel, signal) = bounded::<Infallible>(0);
    drop(cancel);
    let http = plain();
    let is_unsent =
        || matches!(post(&http, &at(address), LONG, Some(&signal)), Err(NoAnswer::Cancelled { sent: false }));
    assert!(is_unsent());
    assert!(seen.is_empty());
    // Nor over a connection that is there already.
    post(&http, &at(address), LONG, None).unwrap();
    assert!(is_unsent());
    assert_eq!(seen.len(), 1);
}

#[test]
fn a_cancel_ends_an_agreement_on_tls() {
    let (tells, told) = unbounded();
    let (_hold, held) = bounded::<()>(0);
    let address = serve(move |_stream| {
        tells.send(()).unwrap();
        let _ = held.recv();
    });
    assert!(!cancelled(&format!("https://localhost:{}/", address.port()), &told));
}

#[test]
fn a_cancel_ends_the_wait_for_a_connection() {
    // Its queue is full, so that the system drops what comes.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        waiting.push(stream);
    }
    // Nobody can tell when it begins to wait. Should it be later than this, the test is easier than it is meant to be.
    let begins = crossbeam_channel::after(Duration::from_millis(300));
    assert!(!cancelled(&at(address), &begins));
    let begun = Instant::now();
    let answer = post(&Http::to_metadata(RootCerts::WebPki), &at(address), LONG, None);
    assert!(matches!(answer, Err(NoAnswer::Unreachable(_))), "{answer:?}");
    assert!(begun.elapsed() < METADATA_LIMIT + SOON);
}

fn pem(name: &str) -> String {
    format!("{}/tests/tls/{name}.pem", env!("CARGO_MANIFEST_DIR"))
}

fn server_with(certificate: &str) -> String {
    let chain = vec![CertificateDer::from_pem_file(pem(certificate)).unwrap()];
    let key = PrivateKeyDer::from_pem_file(pem(&format!("{certificate}.key"))).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let address = serve(move |stream| {
        let tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        converse(tls, &|_: &Request| (said(200, "", "in secret"), true));
    });
    format!("https://localhost:{}/", address.port())
}

#[test]
fn a_provider_must_prove_its_name() {
    let trusting = |authority: &str| Http::to_provider(roots_of(pem(authority).as_ref()).unwrap());
    let http = trusting("authority");
    for _ in 0..2 {
        assert_eq!(post(&http, &server_with("master"), LONG, None).unwrap().body, "in secret");
    }
    for (http, certificate) in [(&http, "elsewhere"), (&trusting("stranger"), "master"), (&plain(), "master")] {
        let Err(NoAnswer::Unreachable(why)) = post(http, &server_with(certificate), LONG, None) else {
            panic!("{certificate} was believed");
        };
        assert!(why.contains("certificate"), "{why}");
    }
    // Who speaks no TLS has been sent nothing of the request.
    let without = server(|_| (said(400, "", ""), false));
    let answer = post(&http, &format!("https://localhost:{}/", without.port()), Duration::from_secs(5), None);
    assert!(matches!(answer, Err(NoAnswer::Unreachable(_))), "{answer:?}");
}

/// Proxies are named by the environment, which is the process's: so it is another process.
#[test]
fn no_proxy_stands_before_a_metadata_service() {
    const SERVER: &str = "TEST_SERVER_WITHOUT_A_PROXY";
    if let Ok(server) = std::env::var(SERVER) {
        let direct = post(&Http::to_metadata(RootCerts::WebPki), &server, LONG, None);
        assert_eq!(direct.unwrap().body, "directly");
        let proxied = post(&plain(), &server, LONG, None);
        assert!(matches!(proxied, Err(NoAnswer::Unreachable(_))), "{proxied:?}");
        return;
    }
    let address = server(|_| (said(200, "", "directly"), true));
    let (sees, seen) = unbounded();
    let proxy = server(move |request| {
        sees.send(request.line.clone()).unwrap();
        (said(502, "", ""), false)
    });
    let name = "drivers::ec2::aws::http::tests::no_proxy_stands_before_a_metadata_service";
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([name, "--exact"]).env(SERVER, at(address));
    for variable in ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "http_proxy", "NO_PROXY", "no_proxy"] {
        child.env_remove(variable);
    }
    let output = child.env("HTTP_PROXY", at(proxy)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [format!("CONNECT {address} HTTP/1.1")]);
}
