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

#[cfg(test)]
mod tests {
    use super::*;

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
