//! A machine of Amazon EC2 for one command: started, used, and gone.
//!
//! ```sh
//! cargo run --example ec2 --features agent,ec2 -- \
//!     ssm:/aws/service/debian/release/12/latest/amd64 t3.small:spot 203.0.113.7:9989 'uname -a'
//! ```
//!
//! The arguments are the image (`ami-…`, or `ssm:` and the name of a parameter), the offer, and where the machine finds this
//! program: its port must be open here. Credentials and region come from where the provider's own tools have them. The machine
//! installs a stock buildbot-worker, which takes a minute or two: see `ec2/user-data.sh`.

#[path = "support/numbers.rs"]
mod numbers;

use std::io::Write;
use std::num::NonZeroU32;
use std::time::Duration;

use latent_worker::{
    AgentListener, Ami, Build, Command, Ec2LatentWorker, IdlePolicy, Master, Offer, ShutdownMode, WorkerConfig,
};

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [image, offer, address, command] = &arguments[..] else {
        return Err("usage: ec2 IMAGE OFFER HOST:PORT COMMAND".into());
    };
    let (_, port) = numbers::host_and_port("HOST:PORT", address, 1..=u16::MAX.into())?;

    // The next run with this journal ends what a run has left that was killed.
    let master = Master::builder().journal("ec2.journal")?.build();
    let _listener = AgentListener::bind(&master, format!("0.0.0.0:{port}"))?;
    let driver = Ec2LatentWorker::builder()
        .image(image.parse::<Ami>()?)
        .offer(offer.parse::<Offer>()?)
        .master_address(&**address)
        .user_data(include_str!("ec2/user-data.sh"))
        .build()?;
    let config = WorkerConfig::new("ec2-example")
        .with_idle(IdlePolicy::AfterBuild)
        .with_missing_timeout(Duration::from_secs(900));
    let worker = master.add_worker(config, driver)?;

    let finished = master.run(Build::new("example").with_max_attempts(NonZeroU32::MIN), |lease| {
        eprintln!("attached: {}", worker.status().details.join(", "));
        lease.run(&Command::shell(command))
    })?;
    // The machine is terminated even if its output cannot be written.
    let written = std::io::stdout().write_all(&finished.stdout).and_then(|()| std::io::stdout().flush());
    let _ = std::io::stderr().write_all(&finished.stderr);

    let report = master.shutdown(ShutdownMode::Graceful, Duration::from_secs(900));
    written?;
    if report.complete { Ok(()) } else { Err(report.to_string().into()) }
}
