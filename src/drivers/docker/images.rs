//! Sees to it that the image of an instance is on the engine's machine: looks, pulls, builds.

use std::time::Duration;

use super::CALL_LIMIT;
use super::engine::{BuildContext, Engine, EngineError, Image, ImageBuild, Keyring, Patience, Pull};
use super::settings::{ImageRecipe, PullPolicy, Rendered};
use super::verdict;
use crate::drivers::turns::{NoTurn, Turns};
use crate::{Cancelled, FailureCause, StartError, StartRequest};

/// A pull or a build that takes longer than this will not end. Most starts are cancelled long before, by their
/// `missing_timeout`.
const FETCH_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// The images of an engine.
#[derive(Default)]
pub(super) struct Images {
    /// Those that are just being fetched or built, so that starts at the same time do not do it twice.
    under_way: Turns<Wanted, Failure>,
}

/// An image, and the platform that it is to be for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Wanted {
    reference: String,
    platform: Option<String>,
}

/// A failure that all those who waited share: `None` is the build's own fault.
#[derive(Clone, Debug)]
struct Failure(Option<FailureCause>, String);

impl Failure {
    fn of(error: &StartError) -> Self {
        match error {
            StartError::CannotSubstantiate(reason) => Self(None, reason.to_string()),
            StartError::FailedToSubstantiate { cause, source } => Self(Some(*cause), source.to_string()),
        }
    }

    fn into_error(self) -> StartError {
        match self {
            Self(None, reason) => StartError::cannot(reason),
            Self(Some(cause), reason) => StartError::failed(cause, reason),
        }
    }
}

impl Images {
    /// Does what the settings say about the image.
    pub(super) fn provide(
        &self,
        engine: &Engine,
        start: &StartRequest<'_>,
        rendered: &Rendered,
        credentials: &Keyring,
    ) -> Result<(), StartError> {
        let platform = rendered.platform.as_deref();
        let fetch = || fetch(engine, start, rendered, credentials);
        if rendered.recipe.is_none() && rendered.pull == PullPolicy::Always {
            // Each start for itself: what another has just pulled may be older. An engine does not pull a layer twice.
            return fetch();
        }
        let fits = |image: &Image| platform.is_none_or(|platform| fits(platform, image));
        let look = || {
            let patience = Patience::new(CALL_LIMIT).cancelled_by(start.cancel_signal());
            engine.image(&rendered.image, platform, patience).map_err(|error| verdict::of_image(error, false))
        };
        let there = look()?;
        if there.as_ref().is_some_and(fits) {
            return Ok(());
        }
        if rendered.recipe.is_none() && rendered.pull == PullPolicy::Never {
            let reference = &rendered.image;
            return Err(StartError::cannot(match there {
                None => format!("there is no image {reference} on the engine's machine, and it is not to be pulled"),
                Some(Image { os, architecture, .. }) => format!(
                    "image {reference} is for {os}/{architecture}, not for {}, and it is not to be pulled",
                    platform.unwrap_or_default()
                ),
            }));
        }

        let wanted = Wanted { reference: rendered.image.clone(), platform: rendered.platform.clone() };
        let waiting = || {
            start.progress(&format!("waiting for image {}, which another start fetches", rendered.image));
        };
        let turn = self.under_way.take(wanted, start.cancel_signal(), FETCH_LIMIT, waiting);
        let turn = turn.map_err(|none| match none {
            NoTurn::Failed(failure) => failure.into_error(),
            NoTurn::Cancelled => Cancelled.into(),
            NoTurn::TimedOut => {
                StartError::infrastructure(format!("image {} is still being fetched by another start", rendered.image))
            }
        })?;
        // Somebody else may have brought it meanwhile.
        if look()?.as_ref().is_some_and(fits) {
            return Ok(());
        }
        let fetched = fetch();
        if let Err(error) = &fetched
            && !start.cancelled()
        {
            turn.fail(Failure::of(error));
        }
        fetched
    }
}

/// Pulls the image, or builds it.
fn fetch(
    engine: &Engine,
    start: &StartRequest<'_>,
    rendered: &Rendered,
    credentials: &Keyring,
) -> Result<(), StartError> {
    let patience = Patience::new(FETCH_LIMIT).cancelled_by(start.cancel_signal());
    match &rendered.recipe {
        Some(recipe) => build(engine, start, rendered, recipe, credentials, patience).map_err(verdict::of_build),
        None => {
            start.progress(&format!("pulling image {}", rendered.image));
            let pull = Pull { reference: &rendered.image, platform: rendered.platform.as_deref(), credentials };
            let pulled = engine.pull(&pull, &mut |line| start.progress(line), patience);
            pulled.map_err(|error| verdict::of_image(error, credentials.has_for(&rendered.image)))
        }
    }
}

fn build(
    engine: &Engine,
    start: &StartRequest<'_>,
    rendered: &Rendered,
    recipe: &ImageRecipe,
    credentials: &Keyring,
    patience: Patience<'_>,
) -> Result<(), EngineError> {
    let context = match recipe {
        ImageRecipe::Dockerfile(text) => BuildContext::Dockerfile(text),
        ImageRecipe::Directory { path, dockerfile } => {
            BuildContext::Directory(path, dockerfile.as_deref().and_then(|path| path.to_str()))
        }
    };
    start.progress(&format!("building image {}", rendered.image));
    let platform = rendered.platform.as_deref();
    let build = ImageBuild { context, reference: &rendered.image, platform, arguments: &[], labels: &[], credentials };
    engine.build(&build, &mut |line| start.progress(line), patience)
}

/// Whether an image is for a platform, `os[/architecture[/variant]]`. What an image does not say fits.
fn fits(platform: &str, image: &Image) -> bool {
    let mut parts = platform.split('/');
    let mut same = |its: &str| {
        let wanted = parts.next().unwrap_or_default().to_lowercase();
        let wanted = match wanted.as_str() {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        wanted.is_empty() || its.is_empty() || wanted == its
    };
    [&image.os, &image.architecture, &image.variant].into_iter().all(|its| same(its))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_compared_as_far_as_they_are_known() {
        let image = |architecture: &str, variant: &str| Image {
            id: "x".into(),
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.into(),
        };
        for platform in ["linux", "linux/amd64", "Linux/x86_64", "linux/amd64/v1"] {
            assert!(fits(platform, &image("amd64", "")), "{platform}");
        }
        for platform in ["windows", "linux/arm64", "linux/s390x"] {
            assert!(!fits(platform, &image("amd64", "")), "{platform}");
        }
        assert!(fits("linux/arm64/v8", &image("arm64", "v8")) && fits("linux/aarch64", &image("arm64", "v8")));
        assert!(!fits("linux/arm/v6", &image("arm", "v7")));
    }
}
