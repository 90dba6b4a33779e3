//! A worker without the queue, for those who have a scheduler of their own: ask for a lease, use it, stop the instance.

use std::time::Duration;

use latent_worker::{
    Attachment, Build, IdlePolicy, LatentWorker, Master, StartError, StartRequest, Started, StopError, StopRequest,
    SubstantiateError, WorkerConfig,
};

/// Instances that take half a second to come up.
struct Slow;

impl LatentWorker for Slow {
    type Instance = Attachment;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Attachment>, StartError> {
        start.progress("warming up");
        start.sleep(Duration::from_millis(500))?;
        Ok(Started::new(start.attacher().attach(())?))
    }

    fn stop_instance(&self, _stop: StopRequest<Attachment>) -> Result<(), StopError> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let master = Master::new();
    let worker = master.add_worker(WorkerConfig::new("slow").with_idle(IdlePolicy::Never), Slow)?;

    // The request is under way while this thread does other things. Dropping it would cancel it.
    let mut request = worker.substantiate(&Build::new("mine"));
    let lease = loop {
        match request.wait_timeout(Duration::from_millis(200)) {
            Some(answer) => break answer?,
            None => println!("{}", worker.status()),
        }
    };
    println!("{}", worker.status());

    // The worker takes one build at a time, and says so at once.
    let second = worker.substantiate(&Build::new("another")).wait();
    assert!(matches!(second, Err(SubstantiateError::Full)));
    drop(lease); // the place is free again, and the instance still warm

    let warm = worker.substantiate(&Build::new("another")).wait()?;
    println!("{} has the same instance: attempt {}", warm.build().name(), warm.epoch());
    drop(warm);

    let stopped = worker.insubstantiate(false).wait_timeout(Duration::from_secs(10));
    println!("stopped: {stopped}; {}", worker.status());
    Ok(())
}
