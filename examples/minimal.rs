//! The smallest use: a kind of worker in two methods, and a build that runs on it.

use latent_worker::{
    Attachment, Build, LatentWorker, Master, StartError, StartRequest, Started, StopError, StopRequest, WorkerConfig,
};

/// Workers that are nothing but a number.
struct Numbered;

impl LatentWorker for Numbered {
    /// Whatever stands for a running instance. This one holds its agent's attachment: dropped with it, it detaches.
    type Instance = Attachment;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Attachment>, StartError> {
        println!("starting {} for {:?}", start.worker(), start.build().map(Build::name));
        // A real instance runs elsewhere and its agent connects back; this one needs no agent that does anything.
        let attachment = start.attacher().attach(())?;
        Ok(Started::new(attachment).detail(format!("attempt {}", start.epoch())))
    }

    fn stop_instance(&self, stop: StopRequest<Attachment>) -> Result<(), StopError> {
        println!("stopping {}", stop.worker());
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let master = Master::new();
    master.add_worker(WorkerConfig::new("one"), Numbered)?;
    let answer = master.run(Build::new("question"), |lease| {
        println!("{} runs on {}", lease.build().name(), lease.worker());
        Ok::<_, std::io::Error>(6 * 7)
    })?;
    println!("the answer is {answer}");
    Ok(()) // dropping the master stops the instance
}
