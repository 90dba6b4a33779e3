//! The driver that does nothing: an instance is nothing but the attachment of its agent.

use latent_worker::{Attachment, LatentWorker, StartError, StartRequest, Started, StopError, StopRequest};

pub(crate) struct Nothing;

impl LatentWorker for Nothing {
    type Instance = Attachment;

    fn start_instance(&self, start: &StartRequest<'_>) -> Result<Started<Attachment>, StartError> {
        Ok(Started::new(start.attacher().attach(())?))
    }

    fn stop_instance(&self, _: StopRequest<Attachment>) -> Result<(), StopError> {
        Ok(())
    }
}
