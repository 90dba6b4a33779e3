//! A small worker for tests: it speaks the protocol, and everything else that a test has it say.

#![allow(unreachable_pub, reason = "a part of one test binary")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use latent_worker::testing::PATIENCE;
use rmp::encode::{write_array_len, write_map_len, write_nil, write_sint, write_str, write_uint};
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

pub struct Fake {
    pub socket: WebSocket<TcpStream>,
    next_number: u64,
    /// Told of every answer of the master.
    pub answered: Option<crossbeam_channel::Sender<()>>,
}

/// The request line and headers of a log-in.
pub fn request(authorization: Option<&str>) -> String {
    let authorization = authorization.map_or_else(String::new, |value| format!("Authorization: {value}\r\n"));
    format!(
        "GET / HTTP/1.1\r\nHost: master\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{authorization}\
         Sec-WebSocket-Key: orizvE6FCsg9/3gKzDDMHQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

pub fn basic(name: &str, secret: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{name}:{secret}").as_bytes()))
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// The status of the response; `None` when the connection was closed without one.
pub fn status(socket: &mut TcpStream) -> Option<u16> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Ok(_) => return None,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("no response in time: {error}"),
        }
    }
    String::from_utf8(head).unwrap().split(' ').nth(1)?.parse().ok()
}

/// Whether the connection is closed in time, whatever is sent before that.
pub fn is_closed(socket: &mut TcpStream) -> bool {
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = [0; 4096];
    while Instant::now() < deadline {
        match socket.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
    false
}

impl Fake {
    pub fn log_in(address: SocketAddr, name: &str, secret: &str) -> Result<Self, Option<u16>> {
        let mut socket = connect(address);
        socket.write_all(request(Some(&basic(name, secret))).as_bytes()).unwrap();
        match status(&mut socket) {
            Some(101) => Ok(Self::over(socket)),
            other => Err(other),
        }
    }

    /// Logs in and answers the greeting: the agent has attached soon after that.
    pub fn attach(address: SocketAddr, name: &str, secret: &str) -> Self {
        let mut fake = Self::log_in(address, name, secret).expect("it is let in");
        for _ in 0..2 {
            let request = fake.request().expect("the greeting comes");
            fake.answer(&request);
        }
        fake
    }

    /// A connection that was upgraded before.
    pub fn over(socket: TcpStream) -> Self {
        Self { socket: WebSocket::from_raw_socket(socket, Role::Client, None), next_number: 0, answered: None }
    }

    pub fn send(&mut self, message: Vec<u8>) {
        self.socket.send(Message::binary(message)).unwrap();
    }

    /// The next request of the master; `None` at the end of the connection. Answers are passed over.
    pub fn request(&mut self) -> Option<rmp_map::Map> {
        loop {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => {
                    let map = rmp_map::read(&bytes);
                    if map.op != "response" {
                        return Some(map);
                    }
                    if let Some(answered) = &self.answered {
                        answered.send(()).unwrap();
                    }
                }
                Ok(_) => {}
                Err(tungstenite::Error::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return None,
            }
        }
    }

    pub fn answer(&mut self, request: &rmp_map::Map) {
        let mut bytes = begin("response", request.number, 1);
        write_str(&mut bytes, "result").unwrap();
        if request.op == "get_worker_info" {
            write_map_len(&mut bytes, 2).unwrap();
            for text in ["basedir", "/srv", "system", "posix"] {
                write_str(&mut bytes, text).unwrap();
            }
        } else {
            write_nil(&mut bytes).unwrap();
        }
        self.send(bytes);
    }

    /// Any request with these fields, and a number that was not used before.
    pub fn ask(&mut self, op: &str, command: Option<&str>, args: Option<&[u8]>) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let mut bytes = begin(op, number, u32::from(command.is_some()) + u32::from(args.is_some()));
        if let Some(command) = command {
            write_str(&mut bytes, "command_id").unwrap();
            write_str(&mut bytes, command).unwrap();
        }
        if let Some(args) = args {
            write_str(&mut bytes, "args").unwrap();
            bytes.extend(args);
        }
        self.send(bytes);
        number
    }

    /// Sends an operation that does not exist, with these bytes. Returns whether it could be sent.
    pub fn try_ask(&mut self, op: &str, bytes: &[u8]) -> bool {
        let mut message = begin(op, self.next_number, 1);
        self.next_number += 1;
        write_str(&mut message, "args").unwrap();
        rmp::encode::write_bin(&mut message, bytes).unwrap();
        self.socket.send(Message::binary(message)).is_ok()
    }

    /// Output and the end of a command with exit code 0.
    pub fn finish_command(&mut self, command: &str, output: &str) {
        self.output(command, output);
        let mut args = Vec::new();
        write_array_len(&mut args, 1).unwrap();
        write_array_len(&mut args, 2).unwrap();
        write_str(&mut args, "rc").unwrap();
        write_sint(&mut args, 0).unwrap();
        self.ask("update", Some(command), Some(&args));
        self.ask("complete", Some(command), Some(&[0xc0]));
    }

    /// Sends the status of a regular file, and the end of the command.
    pub fn status(&mut self, command: &str, size: u64) {
        let mut args = Vec::new();
        write_array_len(&mut args, 2).unwrap();
        write_array_len(&mut args, 2).unwrap();
        write_str(&mut args, "stat").unwrap();
        write_array_len(&mut args, 10).unwrap();
        for item in [0o100_644, 0, 0, 0, 0, 0, size, 0, 0, 0] {
            write_uint(&mut args, item).unwrap();
        }
        write_array_len(&mut args, 2).unwrap();
        write_str(&mut args, "rc").unwrap();
        write_sint(&mut args, 0).unwrap();
        self.ask("update", Some(command), Some(&args));
        self.ask("complete", Some(command), Some(&[0xc0]));
    }

    /// Asks for the next bytes of a file. Returns whether the request could be sent.
    pub fn want(&mut self, command: &str, length: u64) -> bool {
        let mut bytes = begin("update_read_file", self.next_number, 2);
        self.next_number += 1;
        write_str(&mut bytes, "command_id").unwrap();
        write_str(&mut bytes, command).unwrap();
        write_str(&mut bytes, "length").unwrap();
        write_uint(&mut bytes, length).unwrap();
        self.socket.send(Message::binary(bytes)).is_ok()
    }

    /// Sends the next bytes of a file. The number of the request.
    pub fn block(&mut self, command: &str, block: &[u8]) -> u64 {
        let mut args = Vec::new();
        rmp::encode::write_bin(&mut args, block).unwrap();
        self.ask("update_upload_file_write", Some(command), Some(&args))
    }

    /// Waits until the request with this number is answered, or the connection has ended.
    pub fn await_answer(&mut self, number: u64) {
        loop {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => {
                    let map = rmp_map::read(&bytes);
                    if map.op == "response" && map.number == number {
                        return;
                    }
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// A listing of a directory, and its end.
    pub fn list(&mut self, command: &str, names: &[&str]) {
        let mut args = Vec::new();
        write_array_len(&mut args, 2).unwrap();
        write_array_len(&mut args, 2).unwrap();
        write_str(&mut args, "files").unwrap();
        write_array_len(&mut args, u32::try_from(names.len()).unwrap()).unwrap();
        names.iter().for_each(|name| write_str(&mut args, name).unwrap());
        write_array_len(&mut args, 2).unwrap();
        write_str(&mut args, "rc").unwrap();
        write_sint(&mut args, 0).unwrap();
        self.ask("update", Some(command), Some(&args));
        self.ask("complete", Some(command), Some(&[0xc0]));
    }

    pub fn output(&mut self, command: &str, output: &str) {
        let mut args = Vec::new();
        write_array_len(&mut args, 1).unwrap();
        write_array_len(&mut args, 2).unwrap();
        write_str(&mut args, "stdout").unwrap();
        write_array_len(&mut args, 1).unwrap();
        write_str(&mut args, output).unwrap();
        self.ask("update", Some(command), Some(&args));
    }

    /// Works well until the connection ends: every command writes "ok" and succeeds.
    pub fn work(mut self) {
        while let Some(request) = self.request() {
            self.answer(&request);
            match request.op.as_str() {
                "start_command" => self.finish_command(&request.command, "ok\n"),
                "shutdown" => return,
                _ => {}
            }
        }
    }

    /// Whether the master ends the connection in time.
    pub fn is_closed(&mut self) -> bool {
        self.socket.get_ref().set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        is_closed(self.socket.get_mut())
    }
}

fn begin(op: &str, number: u64, more_fields: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_map_len(&mut bytes, 2 + more_fields).unwrap();
    write_str(&mut bytes, "op").unwrap();
    write_str(&mut bytes, op).unwrap();
    write_str(&mut bytes, "seq_number").unwrap();
    write_uint(&mut bytes, number).unwrap();
    bytes
}

/// Just enough of msgpack to read what the master sends: the fields come in an order that we know.
pub mod rmp_map {
    use rmp::decode::{read_int, read_map_len, read_str_len};

    #[derive(Debug)]
    pub struct Map {
        pub op: String,
        pub number: u64,
        /// Empty when there is none.
        pub command: String,
    }

    fn text(rest: &mut &[u8]) -> String {
        let length = read_str_len(rest).unwrap() as usize;
        let (text, after) = rest.split_at(length);
        *rest = after;
        String::from_utf8(text.to_vec()).unwrap()
    }

    pub fn read(mut rest: &[u8]) -> Map {
        let fields = read_map_len(&mut rest).unwrap();
        assert_eq!(text(&mut rest), "op");
        let op = text(&mut rest);
        assert_eq!(text(&mut rest), "seq_number");
        let number = read_int(&mut rest).unwrap();
        let command = if fields > 2 && text(&mut rest) == "command_id" { text(&mut rest) } else { String::new() };
        Map { op, number, command }
    }
}
