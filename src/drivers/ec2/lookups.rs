//! What must be known before a launch and changes slowly: which image it is, and what spot machines cost. It is looked up
//! once in a while, so that starts in a row do not ask again.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::account::Account;
use super::ami::{self, Ami, Choice};
use super::aws::{AwsError, Patience};
use super::offers::{self, Highest, Market, Offer, Place};

/// How long an answer is used again.
const MEMORY: Duration = Duration::from_secs(60);
/// More answers than this are never kept.
const MOST: usize = 64;
/// Of which prices the average is taken.
const PRICES_OF: Duration = Duration::from_secs(24 * 3600);

#[derive(Default)]
pub(super) struct Lookups {
    /// By what was asked for.
    known: Mutex<Vec<(String, Instant, Option<String>)>>,
}

/// Why there is no image.
pub(super) enum NoImage {
    /// None is like that.
    None(String),
    Failed(AwsError),
}

impl Lookups {
    /// The id of the image.
    pub(super) fn image(&self, account: &Account, ami: &Ami, patience: &Patience<'_>) -> Result<String, NoImage> {
        let found = match &ami.0 {
            Choice::Id(id) => return Ok(id.clone()),
            Choice::Parameter(name) => self.remembered(format!("parameter {name}"), || {
                let value = account.parameter(name, patience)?;
                Ok(Some(value.trim().to_owned()).filter(|value| !value.is_empty()))
            }),
            Choice::Newest(newest) => self.remembered(format!("{newest:?}"), || {
                let images = account.images(newest, patience)?;
                Ok(ami::newest(newest, &images).map(|image| image.id.clone()))
            }),
        };
        match found {
            Ok(Some(id)) => Ok(id),
            Ok(None) => Err(NoImage::None(format!("there is no {ami}; is the region right?"))),
            Err(error) => Err(NoImage::Failed(error)),
        }
    }

    /// The highest price of an offer, as a launch has it; none when it has none of its own.
    pub(super) fn max_price(
        &self,
        account: &Account,
        offer: &Offer,
        patience: &Patience<'_>,
    ) -> Result<Option<String>, AwsError> {
        match offer.market {
            Market::OnDemand | Market::Spot(Highest::OnDemand) => Ok(None),
            Market::Spot(Highest::Dollars(dollars)) => Ok(Some(offers::dollars(dollars))),
            Market::Spot(Highest::TimesAverage(factor)) => {
                let zone = if let Place::Zone(zone) = &offer.place { zone } else { "" };
                self.remembered(format!("price {} {zone} {factor}", offer.instance_type), || {
                    let prices = account.spot_prices(offer, PRICES_OF, patience)?;
                    Ok(offers::times_average(factor, &prices))
                })
            }
        }
    }

    /// What is not there is asked for again.
    fn remembered(
        &self,
        what: String,
        ask: impl FnOnce() -> Result<Option<String>, AwsError>,
    ) -> Result<Option<String>, AwsError> {
        {
            let mut known = self.known.lock();
            known.retain(|(_, at, _)| at.elapsed() < MEMORY);
            if let Some((_, _, answer)) = known.iter().find(|(its, ..)| *its == what) {
                return Ok(answer.clone());
            }
        }
        let answer = ask()?;
        let mut known = self.known.lock();
        if answer.is_some() && known.len() < MOST {
            known.push((what, Instant::now(), answer.clone()));
        }
        Ok(answer)
    }
}
