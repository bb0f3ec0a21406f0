//! How many unacknowledged deliveries each band may have.

/// Bands there are, the highest last.
pub(super) const BANDS: usize = 4;
/// Where jobs of the default priority wait.
pub(super) const ORDINARY: usize = 1;

/// The prefetch of each band where so many deliveries may be out and buffered together.
///
/// The broker has no limit across channels. The favoured band gets all of it, so that a queue whose jobs are of one band loses
/// nothing; the bands below it get one each, which is enough to learn that they have jobs; the bands above it share as much
/// again, so that what is urgent need not come one by one. In all that is twice the demand, where that is three or more, and
/// one each where it is less.
pub(super) fn prefetch(demand: usize, favoured: usize) -> [u16; BANDS] {
    if demand == 0 {
        return [0; BANDS];
    }
    let above = BANDS - 1 - favoured;
    let share = demand.saturating_sub(favoured).checked_div(above).unwrap_or(0).max(1);
    let count = |band: usize| match band.cmp(&favoured) {
        std::cmp::Ordering::Less => 1,
        std::cmp::Ordering::Equal => demand,
        std::cmp::Ordering::Greater => share,
    };
    std::array::from_fn(|band| u16::try_from(count(band)).unwrap_or(u16::MAX))
}

/// A band that carries much grows back to its part in about so many subscriptions.
const STEPS: usize = 8;
/// A band with so many subscriptions that may have more makes one of them. Growing back takes [`STEPS`], one at first and one at last.
pub(super) const SUBSCRIPTIONS: usize = 2 * STEPS;

/// What is out already, or may come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Out {
    /// Brought by subscriptions that were cancelled, and not ended.
    pub(super) carried: [usize; BANDS],
    /// What the subscriptions that go on may have out.
    pub(super) live: [usize; BANDS],
}

impl Out {
    fn of(&self, band: usize) -> usize {
        self.carried[band] + self.live[band]
    }

    /// How many more a band may subscribe to, so that in all no more than twice the demand is out, however often the plan changes.
    ///
    /// Each band may have one more than what it carries, to learn whether there is more, and one without any subscription comes before
    /// the part that the bands above the favoured one leave that. What would be little more waits until it is worth a subscription, of
    /// which a busy band would else make one for each carried job that ends.
    pub(super) fn room(&self, demand: usize, favoured: usize, band: usize) -> u16 {
        if demand == 0 {
            return 0;
        }
        let plan = prefetch(demand, favoured).map(usize::from);
        let most = plan.iter().sum::<usize>().max(2 * demand);
        let is_deaf = self.live[band] == 0 && self.carried[band] > 0;
        let wish = plan[band].max(self.carried[band] + 1).saturating_sub(self.of(band));
        let wish = if is_deaf { wish.min(1) } else { wish };
        let owed = |other: usize| {
            let planned = if other == favoured && band > favoured && !is_deaf { plan[other] } else { 1 };
            self.of(other).max(self.carried[other] + 1).max(planned)
        };
        let others: usize = (0..BANDS).filter(|other| *other != band).map(owed).sum();
        let left = most.saturating_sub(others + self.of(band));
        let least = usize::from(self.of(band) == 0);
        let room = wish.min(left.max(least));
        let is_worth_it = self.live[band] == 0 || self.carried[band] == 0 || room >= plan[band] / STEPS;
        u16::try_from(if is_worth_it { room } else { 0 }).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has every band take what it may, again and again; what is out then.
    fn settle(demand: usize, favoured: usize, out: &mut Out) -> [usize; BANDS] {
        for band in (0..BANDS).rev().cycle().take(3 * BANDS) {
            out.live[band] += usize::from(out.room(demand, favoured, band));
        }
        std::array::from_fn(|band| out.of(band))
    }

    const NOTHING: Out = Out { carried: [0; BANDS], live: [0; BANDS] };

    #[test]
    fn from_nothing_each_band_gets_its_part_of_the_plan() {
        for (demand, favoured) in [(1, 1), (2, 0), (3, 3), (64, 1), (64, 3), (1_000, 0)] {
            let out = settle(demand, favoured, &mut { NOTHING });
            assert_eq!(out, prefetch(demand, favoured).map(usize::from), "{demand} {favoured}");
        }
    }

    #[test]
    fn what_is_carried_is_no_extra_however_often_the_plan_changes() {
        for demand in [3, 8, 64] {
            let mut out = NOTHING;
            for favoured in [1, 2, 3, 0, 1, 3, 2, 1] {
                let all = settle(demand, favoured, &mut out);
                assert!(all.iter().sum::<usize>() <= 2 * demand, "{demand} {favoured}: {all:?}");
                assert!(all.iter().all(|count| *count > 0), "{demand} {favoured}: {all:?}");
                // All that was subscribed to has come, none of it ends, and all subscriptions are cancelled.
                out = Out { carried: all, ..NOTHING };
            }
        }
    }

    #[test]
    fn the_favoured_band_gets_what_ends_elsewhere_and_no_band_is_deaf() {
        let mut out = Out { carried: [0, 64, 0, 0], live: [1, 0, 0, 31] };
        assert_eq!(settle(64, 2, &mut out), [1, 65, 31, 31]);
        out.carried[1] = 32;
        assert_eq!(settle(64, 2, &mut out), [1, 33, 63, 31]);
        out.carried[1] = 0;
        let all = settle(64, 2, &mut out);
        assert_eq!((all[..3].to_vec(), all[3]), (vec![1, 1, 64], 62));
    }

    /// All ways to spread up to so many over the bands.
    fn spread(most: usize) -> impl Iterator<Item = [usize; BANDS]> {
        let base = most + 1;
        let all = (0..base.pow(4)).map(move |n| [n % base, n / base % base, n / base.pow(2) % base, n / base.pow(3)]);
        all.filter(move |carried| carried.iter().sum::<usize>() <= most)
    }

    #[test]
    fn whatever_is_carried_each_band_hears_of_more() {
        for demand in 3..=8 {
            // Where as many are carried as may run at once, none of them could.
            for carried in spread(demand - 1) {
                for favoured in 0..BANDS {
                    for first in 0..BANDS {
                        let mut out = Out { carried, ..NOTHING };
                        for turn in 0..4 * BANDS {
                            let band = (first + turn * 3) % BANDS;
                            out.live[band] += usize::from(out.room(demand, favoured, band));
                        }
                        let all: usize = (0..BANDS).map(|band| out.of(band)).sum();
                        assert!(all <= 2 * demand, "{demand} {favoured}: {out:?}");
                        assert!(out.live.iter().all(|live| *live > 0), "{demand} {favoured}: {out:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_busy_band_grows_back_in_few_subscriptions() {
        for demand in [4, 10, 64, 100, 1_000] {
            let mut out = Out { carried: [0, demand, 0, 0], ..NOTHING };
            settle(demand, 0, &mut out);
            let mut made = usize::from(out.live[ORDINARY] > 0);
            for _ in 0..demand {
                out.carried[ORDINARY] -= 1;
                let more = out.room(demand, ORDINARY, ORDINARY);
                out.live[ORDINARY] += usize::from(more);
                made += usize::from(more > 0);
            }
            assert_eq!(out.live[ORDINARY], demand);
            assert!(made <= STEPS + 2, "{demand}: {made}");
        }
    }

    #[test]
    fn all_bands_together_stay_within_twice_the_demand() {
        for demand in 3..1_000 {
            for favoured in 0..BANDS {
                let plan = prefetch(demand, favoured);
                let total: usize = plan.iter().map(|count| usize::from(*count)).sum();
                assert!(total <= 2 * demand, "{demand} {favoured}: {plan:?}");
                assert_eq!(usize::from(plan[favoured]), demand);
            }
        }
    }

    #[test]
    fn lower_bands_get_one_and_none_is_deaf() {
        assert_eq!(prefetch(64, 3), [1, 1, 1, 64]);
        assert_eq!(prefetch(64, ORDINARY), [1, 64, 31, 31]);
        assert_eq!(prefetch(1, ORDINARY), [1, 1, 1, 1]);
        assert_eq!(prefetch(0, ORDINARY), [0; BANDS]);
        assert_eq!(prefetch(100_000, 3)[3], u16::MAX);
    }
}
