//! A mean of noisy readings, and how sure it is.

/// Weight of a new reading once there were some.
const WEIGHT: f64 = 0.1;
/// Readings that a mean with this weight is made of: `(2 - WEIGHT) / WEIGHT`.
const MAX_READINGS: f64 = (2.0 - WEIGHT) / WEIGHT;
/// Standard errors that are taken off.
const MARGIN: f64 = 2.0;

/// Exponentially weighted mean and variance.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    readings: f64,
    mean: f64,
    variance: f64,
}

impl Mean {
    pub(crate) fn add(&mut self, reading: f64) {
        self.readings = (self.readings + 1.0).min(MAX_READINGS);
        let weight = WEIGHT.max(1.0 / self.readings);
        let difference = reading - self.mean;
        self.mean += weight * difference;
        self.variance = (1.0 - weight) * (self.variance + weight * difference * difference);
    }

    /// The mean less its uncertainty, at least 0. Noise around zero is zero.
    pub(crate) fn at_least(&self) -> f64 {
        if self.readings == 0.0 {
            return 0.0;
        }
        (self.mean - MARGIN * (self.variance / self.readings).sqrt()).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_around_zero_is_zero_and_a_constant_is_itself() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut noise = Mean::default();
        let mut sum = 0.0;
        for _ in 0..1000 {
            noise.add(random.f64() * 10.0 - 5.0);
            sum += noise.at_least();
        }
        assert!(sum / 1000.0 < 0.2, "{sum}");
        let mut constant = Mean::default();
        constant.add(40.0);
        assert_eq!(constant.at_least(), 40.0);
    }

    #[test]
    fn a_lasting_load_is_found_in_noise() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut loaded = Mean::default();
        for _ in 0..100 {
            loaded.add(8.0 + random.f64() * 10.0 - 5.0);
        }
        assert!((5.0..8.0).contains(&loaded.at_least()), "{loaded:?}");
    }
}
