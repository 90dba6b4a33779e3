//! What kinds of machines are asked for, in which order, and which of them were out of capacity a short while ago.
//!
//! Pure.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::BoxError;

/// More than this many are never remembered at once.
const MOST_SHORTAGES: usize = 256;

/// One kind of machine in one place at one price; see
/// [`Ec2LatentWorkerBuilder::offer`](crate::Ec2LatentWorkerBuilder::offer).
///
/// As a text, and so in a template of a [`Setting`](crate::Setting), it is `TYPE[@ZONE or @SUBNET][:spot]`, where `:spot` may be
/// followed by `<DOLLARS` or `*FACTOR`:
///
/// ```
/// use latent_worker::Offer;
///
/// assert_eq!("c7i.large".parse::<Offer>()?, Offer::new("c7i.large"));
/// assert_eq!("c7i.large@eu-west-1a:spot".parse::<Offer>()?, Offer::new("c7i.large").in_zone("eu-west-1a").spot());
/// assert_eq!("m7a.xlarge:spot<0.08".parse::<Offer>()?, Offer::new("m7a.xlarge").spot_below(0.08));
/// assert_eq!("m7a.xlarge:spot*1.2".parse::<Offer>()?, Offer::new("m7a.xlarge").spot_times_average(1.2));
/// assert_eq!("m7a.xlarge@subnet-1".parse::<Offer>()?, Offer::new("m7a.xlarge").in_subnet("subnet-1"));
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Offer {
    pub(super) instance_type: String,
    pub(super) place: Place,
    pub(super) market: Market,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) enum Place {
    #[default]
    Anywhere,
    Zone(String),
    Subnet(String),
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) enum Market {
    #[default]
    OnDemand,
    Spot(Highest),
}

/// The highest price of a spot machine.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Highest {
    /// That of the same machine on demand, as the provider has it when nothing is said.
    OnDemand,
    /// Dollars an hour.
    Dollars(f64),
    /// So many times what it was on average.
    TimesAverage(f64),
}

impl Offer {
    /// A machine of this type (`c7i.large`), on demand, wherever the provider has one.
    pub fn new(instance_type: impl Into<String>) -> Self {
        Self { instance_type: instance_type.into(), ..Self::default() }
    }

    /// In this availability zone (`eu-west-1a`), in the default subnet there, whatever
    /// [subnet](crate::Ec2LatentWorkerBuilder::subnet) other offers have: a subnet is in one zone. In a network other than the
    /// account's default one, name a [subnet](Self::in_subnet) of the zone instead.
    #[must_use]
    pub fn in_zone(self, zone: impl Into<String>) -> Self {
        Self { place: Place::Zone(zone.into()), ..self }
    }

    /// In this subnet (`subnet-…`).
    #[must_use]
    pub fn in_subnet(self, subnet: impl Into<String>) -> Self {
        Self { place: Place::Subnet(subnet.into()), ..self }
    }

    /// As a spot machine, for at most what it costs on demand. The provider may take it away with two minutes' notice.
    #[must_use]
    pub fn spot(self) -> Self {
        Self { market: Market::Spot(Highest::OnDemand), ..self }
    }

    /// As a spot machine for at most so many dollars an hour.
    #[must_use]
    pub fn spot_below(self, dollars_an_hour: f64) -> Self {
        Self { market: Market::Spot(Highest::Dollars(dollars_an_hour)), ..self }
    }

    /// As a spot machine for at most so many times the average of its prices of the last 24 hours, in its zone if it has one.
    /// A launch without any price in that time asks without a limit of its own.
    #[must_use]
    pub fn spot_times_average(self, factor: f64) -> Self {
        Self { market: Market::Spot(Highest::TimesAverage(factor)), ..self }
    }

    pub(super) fn is_spot(&self) -> bool {
        matches!(self.market, Market::Spot(_))
    }

    pub(super) fn check(self) -> Result<Self, String> {
        let word =
            |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
        if !word(&self.instance_type) {
            return Err(format!("{:?} is no type of a machine; write c7i.large, say", self.instance_type));
        }
        match &self.place {
            Place::Zone(place) | Place::Subnet(place) if !word(place) => {
                return Err(format!("{place:?} is no zone and no subnet"));
            }
            _ => {}
        }
        match self.market {
            Market::Spot(Highest::Dollars(limit) | Highest::TimesAverage(limit)) if !(limit > 0.0 && limit < 1e6) => {
                Err(format!("{limit} is no limit for a price"))
            }
            _ => Ok(self),
        }
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.instance_type)?;
        match &self.place {
            Place::Anywhere => {}
            Place::Zone(place) | Place::Subnet(place) => write!(f, "@{place}")?,
        }
        match self.market {
            Market::OnDemand => Ok(()),
            Market::Spot(Highest::OnDemand) => f.write_str(":spot"),
            Market::Spot(Highest::Dollars(dollars)) => write!(f, ":spot<{dollars}"),
            Market::Spot(Highest::TimesAverage(factor)) => write!(f, ":spot*{factor}"),
        }
    }
}

impl FromStr for Offer {
    type Err = BoxError;

    fn from_str(text: &str) -> Result<Self, BoxError> {
        let (what, market) = text.split_once(':').map_or((text, None), |(what, market)| (what, Some(market)));
        let (instance_type, place) = what.split_once('@').map_or((what, None), |(what, place)| (what, Some(place)));
        let offer = Self::new(instance_type);
        let offer = match place {
            None => offer,
            Some(subnet) if subnet.starts_with("subnet-") => offer.in_subnet(subnet),
            Some(zone) => offer.in_zone(zone),
        };
        let number = |text: &str| text.parse::<f64>().map_err(|_| format!("{text:?} is no number"));
        let offer = match market {
            None => offer,
            Some(market) => match market.strip_prefix("spot").ok_or("after the colon of an offer can only be spot")? {
                "" => offer.spot(),
                limit => match (limit.strip_prefix('<'), limit.strip_prefix('*')) {
                    (Some(dollars), _) => offer.spot_below(number(dollars)?),
                    (_, Some(factor)) => offer.spot_times_average(number(factor)?),
                    _ => return Err("after spot can only be <DOLLARS or *FACTOR".into()),
                },
            },
        };
        Ok(offer.check()?)
    }
}

/// The highest price for a spot machine, as the provider wants it: so many times the average of these.
pub(super) fn times_average(factor: f64, prices: &[f64]) -> Option<String> {
    let average = prices.iter().sum::<f64>() / prices.len() as f64;
    let limit = factor * average;
    (limit > 0.0).then(|| dollars(limit))
}

/// Prices have up to six places (`describe-spot-price-history` shows that many).
pub(super) fn dollars(amount: f64) -> String {
    format!("{amount:.6}")
}

/// Which offers nobody could have a short while ago.
#[derive(Default, Debug)]
pub(super) struct Shortages {
    known: Vec<(Offer, Instant)>,
}

impl Shortages {
    /// There was none of this; it is remembered for so long.
    pub(super) fn note(&mut self, offer: &Offer, now: Instant, length: Duration) {
        self.known.retain(|(known, until)| known != offer && *until > now);
        if let (Some(until), true) = (now.checked_add(length), self.known.len() < MOST_SHORTAGES) {
            self.known.push((offer.clone(), until));
        }
    }

    /// There was one.
    pub(super) fn forget(&mut self, offer: &Offer) {
        self.known.retain(|(known, _)| known != offer);
    }

    /// In which order to ask: as preferred; those that were out of capacity last, and among them first what may be back
    /// first.
    pub(super) fn order(&self, offers: &[Offer], now: Instant) -> Vec<usize> {
        let out = |offer: &Offer| {
            self.known.iter().find(|(known, until)| known == offer && *until > now).map(|(_, until)| *until)
        };
        let mut order: Vec<usize> = (0..offers.len()).collect();
        order.sort_by_key(|&index| out(&offers[index]));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn an_offer_is_the_same_as_its_text() {
        let offers = [
            Offer::new("c7i.large"),
            Offer::new("c7i.large").in_zone("eu-west-1a"),
            Offer::new("u-6tb1.metal").in_subnet("subnet-0a").spot(),
            Offer::new("c7i.large").spot_below(0.5),
            Offer::new("c7i.large").in_zone("a").spot_times_average(1.25),
        ];
        for offer in offers {
            assert_eq!(offer.to_string().parse::<Offer>().unwrap(), offer);
        }
        for wrong in
            ["", "a b", "@a", "a@", "a@b@c", "a:", "a:spots", "a:spot<", "a:spot<-1", "a:spot*0", "a:spot<NaN", "a:x"]
        {
            assert!(wrong.parse::<Offer>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_was_out_of_capacity_is_asked_for_last_until_it_is_forgotten() {
        let offers = ["a", "b", "c"].map(Offer::new);
        let now = Instant::now();
        let mut shortages = Shortages::default();
        assert_eq!(shortages.order(&offers, now), [0, 1, 2]);
        shortages.note(&offers[0], now, 5 * MINUTE);
        assert_eq!(shortages.order(&offers, now), [1, 2, 0]);
        shortages.note(&offers[1], now + MINUTE, 5 * MINUTE);
        assert_eq!(shortages.order(&offers, now + MINUTE), [2, 0, 1]);
        shortages.note(&offers[0], now + 2 * MINUTE, 5 * MINUTE);
        assert_eq!(shortages.order(&offers, now + 2 * MINUTE), [2, 1, 0], "the one that may be back first");
        assert_eq!(shortages.order(&offers, now + 6 * MINUTE), [1, 2, 0], "one is back");
        assert_eq!(shortages.order(&offers, now + 7 * MINUTE), [0, 1, 2], "both are");
        shortages.note(&offers[0], now, 5 * MINUTE);
        shortages.forget(&offers[0]);
        assert_eq!(shortages.order(&offers, now), [0, 2, 1]);
    }

    #[test]
    fn a_type_out_in_one_zone_is_not_out_in_another_nor_on_demand() {
        let spot = Offer::new("a").in_zone("x").spot();
        let others = [spot.clone(), Offer::new("a").in_zone("x"), Offer::new("a").in_zone("y").spot()];
        let mut shortages = Shortages::default();
        let now = Instant::now();
        shortages.note(&spot, now, MINUTE);
        assert_eq!(shortages.order(&others, now), [1, 2, 0]);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut shortages = Shortages::default();
        let now = Instant::now();
        (0..1000).for_each(|number| shortages.note(&Offer::new(format!("t{number}")), now, MINUTE));
        assert_eq!(shortages.known.len(), MOST_SHORTAGES);
        shortages.note(&Offer::new("a"), now + MINUTE, MINUTE);
        assert_eq!(shortages.known.len(), 1);
    }

    #[test]
    fn the_highest_price_is_so_many_times_the_average() {
        assert_eq!(times_average(1.5, &[0.1, 0.3]).as_deref(), Some("0.300000"));
        assert_eq!(times_average(1.0, &[0.0031]).as_deref(), Some("0.003100"));
        assert_eq!(times_average(1.5, &[]), None);
    }
}
