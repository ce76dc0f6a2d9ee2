//! Which part of each limit this gateway admits while gateways do not share counters.
//!
//! A limit is divided exactly: the parts of all gateways add up to it. The first gateways by rank get the remainder, so of a
//! limit smaller than the number of gateways, some admit 1 and the others nothing.
//!
//! A share falls at once, and rises later ([`Shares::of`]): what gateways that have left used in a window is not granted
//! again in it.

use std::time::Duration;

use forebay_routing::QuotaLimit;

use super::window::Window;

/// A larger share applies from the next window on, and after this time at the latest.
const MAX_RISE_SECONDS: u64 = 3600;
/// Shares of the past that are remembered. A change is rare: a gateway starts or ends.
const MAX_EARLIER: usize = 32;

/// One of several gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    gateways: u64,
    rank: u64,
}

impl Share {
    /// Of the only gateway.
    pub(crate) const WHOLE: Self = Self { gateways: 1, rank: 0 };

    /// `gateways`: at least 1. `rank`: gateways before this one, in an order that all of them know.
    pub(crate) fn new(gateways: u64, rank: u64) -> Self {
        Self { gateways: gateways.max(1), rank }
    }

    pub(crate) fn gateways(self) -> u64 {
        self.gateways
    }

    pub(super) fn rank(self) -> u64 {
        self.rank
    }

    /// The part of an amount.
    pub(super) fn of(self, amount: u128) -> u128 {
        let gateways = u128::from(self.gateways);
        amount / gateways + u128::from(u128::from(self.rank) < amount % gateways)
    }
}

/// The share of now and those of the recent past.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    current: Share,
    /// Each with the last second in which it applied.
    earlier: Vec<(Share, u64)>,
    /// Requests of a gateway that ends may take so long.
    drain_seconds: u64,
}

impl Shares {
    /// `drain`: maximum time in which a gateway that ends finishes its requests.
    pub(super) fn new(drain: Duration) -> Self {
        let drain_seconds = drain.as_secs().saturating_add(u64::from(drain.subsec_nanos() > 0));
        Self { current: Share::WHOLE, earlier: Vec::new(), drain_seconds }
    }

    pub(super) fn current(&self) -> Share {
        self.current
    }

    /// The share is another one from `now` on.
    pub(super) fn change(&mut self, share: Share, now: u64) {
        let oldest = now.saturating_sub(MAX_RISE_SECONDS.max(self.drain_seconds));
        let before = std::mem::replace(&mut self.current, share);
        self.earlier.retain(|(earlier, until)| *earlier != before && *until >= oldest);
        if self.earlier.len() == MAX_EARLIER {
            self.earlier.remove(0);
        }
        self.earlier.push((before, now));
    }

    /// What this gateway may use of a limit in `window`: the smallest part since the window began, of the last hour. Of
    /// concurrent requests: within the time that the requests of a gateway that has left may still run.
    pub(super) fn of(&self, limit: &QuotaLimit, window: Window, now: u64) -> u128 {
        let since = match limit.window {
            Some(_) => window.start.max(now.saturating_sub(MAX_RISE_SECONDS)),
            None => now.saturating_sub(self.drain_seconds),
        };
        let earlier = self.earlier.iter().filter(|(_, until)| *until >= since);
        let parts = earlier.map(|(share, _)| share.of(limit.amount));
        parts.fold(self.current.of(limit.amount), u128::min)
    }
}

#[cfg(test)]
mod tests {
    use forebay_resources::QuotaWindow;
    use forebay_routing::QuotaMeasure;
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_795_824_000 + 1800;

    fn limit(amount: u128, window: Option<QuotaWindow>) -> QuotaLimit {
        let measure =
            if window.is_some() { QuotaMeasure::Requests } else { QuotaMeasure::ConcurrentRequests };
        QuotaLimit { measure, amount, window }
    }

    fn part(shares: &Shares, amount: u128, window: Option<QuotaWindow>, now: u64) -> u128 {
        let current = window.map_or(Window::default(), |window| Window::containing(window, now));
        shares.of(&limit(amount, window), current, now)
    }

    #[test]
    fn a_share_falls_at_once_and_rises_with_the_next_window() {
        let mut shares = Shares::new(Duration::from_millis(29_001));
        let (minute, hour, day) =
            (Some(QuotaWindow::Minute), Some(QuotaWindow::Hour), Some(QuotaWindow::Day));
        let parts = |shares: &Shares, now| [minute, hour, day, None].map(|it| part(shares, 12, it, now));
        assert_eq!(parts(&shares, NOW), [12; 4]);
        shares.change(Share::new(3, 2), NOW);
        assert_eq!(parts(&shares, NOW), [4; 4]);
        shares.change(Share::new(2, 1), NOW + 10);
        assert_eq!(parts(&shares, NOW + 40), [4; 4]);
        assert_eq!(parts(&shares, NOW + 41), [4, 4, 4, 6], "requests of the gateway that left have ended");
        assert_eq!(parts(&shares, NOW + 60), [6, 4, 4, 6]);
        assert_eq!(parts(&shares, NOW + 1800), [6, 6, 4, 6]);
        assert_eq!(parts(&shares, NOW + 3611), [6; 4], "an hour at most");
    }

    #[test]
    fn a_gateway_that_is_replaced_lowers_no_share_for_longer_than_the_change() {
        let mut shares = Shares::new(Duration::from_secs(30));
        for second in 0..1000 {
            shares.change(Share::new(2 + second % 2, 0), NOW + second);
        }
        assert_eq!(shares.earlier.len(), 3, "each share is remembered once");
        for gateways in 0..100 {
            shares.change(Share::new(gateways, 0), NOW + 1000);
        }
        assert_eq!(shares.earlier.len(), MAX_EARLIER);
        assert_eq!(part(&shares, 100, Some(QuotaWindow::Minute), NOW + 1060), 100_u128.div_ceil(99));
    }

    /// What gateways do in the model.
    #[derive(Clone, Debug)]
    enum Step {
        Start,
        /// One of them leaves.
        End(usize),
        /// Seconds.
        Wait(u64),
        /// Requests to one of them.
        Ask(usize, u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => Just(Step::Start),
            2 => any::<usize>().prop_map(Step::End),
            2 => (1_u64..40).prop_map(Step::Wait),
            8 => (any::<usize>(), 1_u8..30).prop_map(|(at, count)| Step::Ask(at, count)),
        ]
    }

    struct Gateway {
        name: u32,
        shares: Shares,
        used: u128,
    }

    fn divide(gateways: &mut [Gateway], now: u64) {
        gateways.sort_by_key(|it| it.name);
        let count = gateways.len() as u64;
        for (rank, gateway) in (0..).zip(gateways) {
            gateway.shares.change(Share::new(count, rank), now);
        }
    }

    proptest! {
        #[test]
        fn parts_add_up_to_the_amount(amount in any::<u64>(), gateways in 1_u64..200) {
            let parts: u128 = (0..gateways).map(|rank| Share::new(gateways, rank).of(amount.into())).sum();
            prop_assert_eq!(parts, u128::from(amount));
        }

        /// In a window, gateways together admit no more than the limit, and what others had used above their new shares when
        /// one more has started. Gateways that leave add nothing.
        #[test]
        fn a_window_is_overrun_only_where_gateways_start(
            amount in 1_u128..60,
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let (mut now, mut names) = (NOW, 0);
            let new = |name| Gateway { name, shares: Shares::new(Duration::ZERO), used: 0 };
            let mut gateways = vec![new(0)];
            let (mut used, mut above) = (0, 0);
            for step in steps {
                let window = Window::containing(QuotaWindow::Minute, now);
                match step {
                    Step::Wait(seconds) => {
                        now += seconds;
                        if now >= window.end {
                            (used, above) = (0, 0);
                            gateways.iter_mut().for_each(|it| it.used = 0);
                        }
                    }
                    Step::Start if gateways.len() < 6 => {
                        names = (names * 7 + 13) % 1009;
                        gateways.push(new(names));
                        divide(&mut gateways, now);
                        // All that was used is unknown to the new one, at most its share.
                        let newest = gateways.iter().find(|it| it.name == names).unwrap();
                        above += newest.shares.current().of(amount).min(used);
                    }
                    Step::End(at) if gateways.len() > 1 => {
                        gateways.remove(at % gateways.len());
                        divide(&mut gateways, now);
                    }
                    Step::Ask(at, count) => {
                        let of = limit(amount, Some(QuotaWindow::Minute));
                        let at = at % gateways.len();
                        let gateway = &mut gateways[at];
                        let may = gateway.shares.of(&of, window, now).saturating_sub(gateway.used);
                        let taken = may.min(count.into());
                        gateway.used += taken;
                        used += taken;
                    }
                    Step::Start | Step::End(_) => {}
                }
                prop_assert!(used <= amount + above, "{used} of {amount}, {above} at most above");
            }
        }
    }
}
