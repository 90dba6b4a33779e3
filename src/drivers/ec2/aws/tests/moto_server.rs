//! A process of moto, a server that speaks the provider's API and has no machines. The integration tests have this file as well.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// It imports a lot.
const START_LIMIT: Duration = Duration::from_secs(120);

pub(crate) struct MotoServer {
    pub(crate) address: SocketAddr,
    /// Ends when its standard input does, also when this process is killed.
    process: Child,
}

impl MotoServer {
    pub(crate) fn start() -> Self {
        let program = std::env::var("TEST_MOTO_SERVER").expect("TEST_MOTO_SERVER says where moto_server is");
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let line = "\"$0\" -H 127.0.0.1 -p \"$1\" >/dev/null 2>&1 & moto=$!; read -r _; kill $moto; wait $moto";
        let process = Command::new("/bin/sh")
            .args(["-c", line, &program, &address.port().to_string()])
            .envs([
                ("MOTO_ENABLE_AMI_VALIDATION", "1"),
                ("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "1"),
                ("MOTO_EC2_LOAD_DEFAULT_AMIS", "false"),
            ])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "moto does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { address, process }
    }
}

impl Drop for MotoServer {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
