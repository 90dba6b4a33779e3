//! What a start must know and changes slowly: which image it is, what spot machines cost, which allocation an address is of.
//! It is looked up once in a while, so that starts in a row do not ask again.

use std::time::{Duration, Instant};

use crossbeam_channel::never;
use parking_lot::Mutex;

use super::account::Account;
use super::ami::{self, Ami, Choice, Image};
use super::aws::{AwsError, Class, Patience};
use super::offers::{self, Highest, Market, Offer, Place};
use super::settings::BlockDevice;
use crate::drivers::turns::{NoTurn, Turns};

/// How long an answer is used again.
const MEMORY: Duration = Duration::from_secs(60);
/// More answers than this are never kept.
const MOST: usize = 64;
/// Of which prices the average is taken.
const PRICES_OF: Duration = Duration::from_secs(24 * 3600);

#[derive(Default)]
pub(super) struct Lookups {
    /// Images by how they are to be found.
    images: Memory<Found>,
    /// Disks by the id of their image.
    disks: Memory<Vec<BlockDevice>>,
    prices: Memory<String>,
    /// Ids of allocations by their addresses.
    allocations: Memory<String>,
}

/// The image to use.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) id: String,
    /// Its disks that would outlive their machine; `None` when nobody has looked.
    lasting: Option<Vec<BlockDevice>>,
}

impl Found {
    fn named(id: &str) -> Self {
        Self { id: id.to_owned(), lasting: None }
    }
}

/// Why there is no image.
pub(super) enum NoImage {
    /// None is like that.
    None(String),
    Failed(AwsError),
}

impl Lookups {
    pub(super) fn image(&self, account: &Account, ami: &Ami, patience: &Patience<'_>) -> Result<Found, NoImage> {
        let found = match &ami.0 {
            Choice::Id(id) => return Ok(Found::named(id)),
            Choice::Parameter(name) => self.images.remembered(&format!("parameter {name}"), patience, || {
                let value = account.parameter(name, patience)?;
                Ok(Some(Found::named(value.trim())).filter(|found| !found.id.is_empty()))
            }),
            Choice::Newest(newest) => self.images.remembered(&format!("{newest:?}"), patience, || {
                let images = account.images(newest, patience)?;
                let newest = ami::newest(newest, &images);
                Ok(newest.map(|Image { id, lasting, .. }| Found { id: id.clone(), lasting: Some(lasting.clone()) }))
            }),
        };
        match found {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(NoImage::None(format!("there is no {ami}; is the region right?"))),
            Err(error) => Err(NoImage::Failed(error)),
        }
    }

    /// The disks of the image that would outlive their machine. When the account may not look, it has none as far as is known.
    pub(super) fn lasting_disks(
        &self,
        account: &Account,
        image: &Found,
        patience: &Patience<'_>,
    ) -> Result<Vec<BlockDevice>, AwsError> {
        if let Some(lasting) = &image.lasting {
            return Ok(lasting.clone());
        }
        let disks = self.disks.remembered(&image.id, patience, || match account.image(&image.id, patience) {
            // One that is not there, or not to be seen, has none that are known: the launch says what is wrong with it.
            Ok(image) => Ok(Some(image.map(|image| image.lasting).unwrap_or_default())),
            Err(error) if error.class() == Class::Denied => {
                let image = &image.id;
                log::warn!("whether disks of image {image} outlive their machines is seen when these run: {error}");
                Ok(Some(Vec::new()))
            }
            Err(error) => Err(error),
        });
        Ok(disks?.unwrap_or_default())
    }

    /// The id of the allocation of an elastic IP, which is that already or an address.
    pub(super) fn allocation(
        &self,
        account: &Account,
        elastic_ip: &str,
        patience: &Patience<'_>,
    ) -> Result<String, AwsError> {
        if elastic_ip.starts_with("eipalloc-") {
            return Ok(elastic_ip.to_owned());
        }
        let what = format!("address {elastic_ip}");
        let found = self.allocations.remembered(&what, patience, || account.allocation(elastic_ip, patience))?;
        found.ok_or_else(|| {
            let what = format!("the account has no address {elastic_ip}");
            AwsError::not_found("DescribeAddresses", "InvalidAddress.NotFound", what)
        })
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
                let what = format!("price {} {zone} {factor}", offer.instance_type);
                self.prices.remembered(&what, patience, || {
                    let prices = account.spot_prices(offer, PRICES_OF, patience)?;
                    Ok(offers::times_average(factor, &prices))
                })
            }
        }
    }
}

/// Answers to questions, which are asked by one for all.
struct Memory<T> {
    known: Mutex<Vec<Answer<T>>>,
    asking: Turns<String, AwsError>,
}

struct Answer<T> {
    to: String,
    at: Instant,
    is: T,
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self { known: Mutex::default(), asking: Turns::default() }
    }
}

impl<T: Clone> Memory<T> {
    /// What is not there is asked for again.
    fn remembered(
        &self,
        what: &str,
        patience: &Patience<'_>,
        ask: impl FnOnce() -> Result<Option<T>, AwsError>,
    ) -> Result<Option<T>, AwsError> {
        if let Some(answer) = self.recall(what) {
            return Ok(Some(answer));
        }
        let never = never();
        let cancel = patience.cancel().unwrap_or(&never);
        let limit = patience.left(what)?;
        let turn = self.asking.take(what.to_owned(), cancel, limit, || {}).map_err(|none| match none {
            NoTurn::Failed(error) => error,
            NoTurn::Cancelled => AwsError::cancelled(what),
            NoTurn::TimedOut => AwsError::timed_out(what, limit),
        })?;
        // Somebody else may have asked meanwhile.
        if let Some(answer) = self.recall(what) {
            return Ok(Some(answer));
        }
        let asked = ask();
        match &asked {
            Ok(Some(answer)) => self.keep(what, answer),
            Ok(None) => {}
            // What has ended only for the one who asked is asked for again.
            Err(error) if matches!(error.class(), Class::Cancelled | Class::TimedOut) => {}
            Err(error) => turn.fail(error.clone()),
        }
        asked
    }

    fn recall(&self, what: &str) -> Option<T> {
        let mut known = self.known.lock();
        known.retain(|answer| answer.at.elapsed() < MEMORY);
        known.iter().find(|answer| answer.to == what).map(|answer| answer.is.clone())
    }

    fn keep(&self, what: &str, answer: &T) {
        let mut known = self.known.lock();
        if known.len() < MOST {
            known.push(Answer { to: what.to_owned(), at: Instant::now(), is: answer.clone() });
        }
    }
}
