#![cfg_attr(all(feature = "local", unix), doc = include_str!("../README.md"))]
#![doc = include_str!("tutorial.md")]

mod build;
mod build_status;
mod clock;
mod command;
mod error;
mod event;
mod files;
#[cfg(any(feature = "tls", feature = "ec2"))]
mod pem;
#[cfg(all(test, any(feature = "docker", feature = "ec2", feature = "tls")))]
mod secrecy;
mod worker;

mod journal;
mod lifecycle;

mod placement;
mod printable;
#[cfg(all(any(feature = "local", feature = "process"), unix))]
mod removal;
mod runtime;
#[cfg(feature = "simulation")]
pub mod simulation;

#[cfg(feature = "agent")]
mod agent;
#[cfg(all(feature = "agent", any(test, fuzzing)))]
#[doc(hidden)]
pub use agent::fuzzing;

#[cfg(feature = "capi")]
mod capi;
mod drivers;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "agent")]
pub use agent::{
    AgentClient, AgentClientBuilder, AgentClientError, AgentEnd, AgentListener, AgentListenerBuilder, AgentStopper,
    ConnectedAgent,
};
pub use build::{Build, BuildId, Epoch, Labels, Properties};
pub use build_status::{
    BuildState, BuildStatus, InvalidPosition, NextChance, Obstacle, ObstacleReason, QueuePage, QueuePosition,
    QueuedBuild, Waiting,
};
pub use clock::Clock;
pub use command::{Agent, Command, CommandEnd, Exit, Output, Process, Program};
#[cfg(all(feature = "command", unix))]
pub use drivers::command::{CommandInstance, CommandLatentWorker};
#[cfg(feature = "ec2")]
pub use drivers::ec2::{
    Ami, AtStop, AwsCredentials, BlockDevice, Ec2Instance, Ec2LatentWorker, Ec2LatentWorkerBuilder, Ec2SettingsError,
    MetadataAccess, Offer,
};
#[cfg(all(feature = "local", unix))]
pub use drivers::local::{LocalAgent, LocalInstance, LocalKind, LocalLatentWorker};
#[cfg(all(feature = "process", unix))]
pub use drivers::process::{ProcessInstance, ProcessLatentWorker};
#[cfg(any(all(feature = "docker", unix), feature = "ec2"))]
pub use drivers::setting::{RenderError, Setting, TemplateError};
#[cfg(all(feature = "docker", unix))]
pub use drivers::{
    byte_size::{ByteSize, ByteSizeError},
    docker::{
        DockerInstance, DockerLatentWorker, DockerLatentWorkerBuilder, DockerSettingsError, EngineAddress,
        EngineAddressError, ImageRecipe, PullPolicy, RegistryCredentials, RegistryCredentialsError,
    },
};
pub use error::{
    AddWorkerError, AttachError, Attempt, BoxError, BuildError, Cancelled, CommandError, FailureCause, FileError,
    Hurried, JournalError, LeaseEnd, RecordError, StartError, StopError, SubstantiateError, UnknownBuild,
};
pub use event::{
    BuildResult, DriverCall, Event, EventKind, LeftoverStatus, LeftoverStep, NextStep, StopCause, WorkerState,
    WorkerStatus,
};
pub use files::{FileStatus, Files, Interrupt};
#[cfg(feature = "testing")]
pub use journal::JournalStep;
pub use journal::{JournalContents, JournalInstance, LeftoverStage, read_journal};
pub use placement::PlacementConfig;
pub use printable::printable;
pub use runtime::{
    Finished, Inbox, Insubstantiation, Lease, LeaseFiles, Master, MasterBuilder, RunError, Running, ShutdownMode,
    ShutdownReport, Substantiation, Ticket, Worker,
};
pub use worker::{
    Attacher, Attachment, DEFAULT_IDLE_TIMEOUT, Health, IdlePolicy, Kind, LatentWorker, Leftover, Reclaimed, Secret,
    StartRequest, Started, StopRequest, WorkerConfig,
};
