//! A line that is fitted to measurements and forgets old ones.

/// Fits `y = base + slope * x` with `base >= 0` and `slope >= 0`.
///
/// Weighted least squares over all samples; each new sample multiplies the weight of the earlier ones by `keep`. A prior
/// counts as much as a few samples, so that a line with no or one sample is usable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    keep: f64,
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

/// What is assumed before there are samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Prior {
    pub(crate) base: f64,
    pub(crate) slope: f64,
}

/// Weight of each point of the prior, in samples.
const PRIOR_WEIGHT: f64 = 0.25;
/// A sample above this multiple of its expected value counts as this multiple. Bounds the effect of one outlier.
const MAX_RATIO: f64 = 4.0;

impl Line {
    /// `samples`: number of newest samples that determine the line, about.
    pub(crate) fn new(samples: f64) -> Self {
        Self { keep: 1.0 - 1.0 / samples, weight: 0.0, x: 0.0, y: 0.0, xx: 0.0, xy: 0.0 }
    }

    /// Adds a measurement. `prior`: see [`Line::fit`].
    pub(crate) fn add(&mut self, x: f64, y: f64, prior: Prior) {
        let expected = self.fit(prior).at(x);
        let y = if self.weight >= 1.0 { y.min(expected * MAX_RATIO) } else { y };
        for sum in [&mut self.weight, &mut self.x, &mut self.y, &mut self.xx, &mut self.xy] {
            *sum *= self.keep;
        }
        self.weight += 1.0;
        self.x += x;
        self.y += y;
        self.xx += x * x;
        self.xy += x * y;
    }

    /// Weight of the samples. 0 without any.
    pub(crate) fn samples(&self) -> f64 {
        self.weight
    }

    /// The line of the samples and the prior. The prior counts as points on its own line: one at zero, and one at the mean
    /// of the samples.
    pub(crate) fn fit(&self, prior: Prior) -> Prior {
        if self.weight == 0.0 {
            return prior;
        }
        let mean = self.x / self.weight;
        let at_mean = prior.at(mean);
        let weight = self.weight + 2.0 * PRIOR_WEIGHT;
        let x = self.x + PRIOR_WEIGHT * mean;
        let y = self.y + PRIOR_WEIGHT * (prior.base + at_mean);
        let xx = self.xx + PRIOR_WEIGHT * mean * mean;
        let xy = self.xy + PRIOR_WEIGHT * mean * at_mean;
        let spread = weight * xx - x * x;
        if spread <= f64::EPSILON * weight * xx {
            // All samples are at zero.
            return Prior { base: y / weight, slope: prior.slope };
        }
        let slope = (weight * xy - x * y) / spread;
        let base = (y - slope * x) / weight;
        if slope < 0.0 {
            Prior { base: y / weight, slope: 0.0 }
        } else if base < 0.0 {
            Prior { base: 0.0, slope: xy / xx }
        } else {
            Prior { base, slope }
        }
    }
}

impl Prior {
    /// The value at `x`.
    pub(crate) fn at(self, x: f64) -> f64 {
        self.base + self.slope * x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIOR: Prior = Prior { base: 10.0, slope: 3.0 };

    fn fitted(samples: impl IntoIterator<Item = (f64, f64)>) -> Prior {
        let mut line = Line::new(32.0);
        for (x, y) in samples {
            line.add(x, y, PRIOR);
        }
        line.fit(PRIOR)
    }

    fn assert_near(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 0.2 * expected.abs(), "{found} is not near {expected}");
    }

    #[test]
    fn is_the_prior_without_samples() {
        assert_eq!(fitted([]), PRIOR);
    }

    #[test]
    fn finds_base_and_slope() {
        let line = fitted((0..200).map(|n| f64::from(n % 7)).map(|x| (x, 2.0 + 0.5 * x)));
        assert_near(line.at(0.0), 2.0);
        assert_near(line.at(6.0), 5.0);
    }

    #[test]
    fn samples_at_one_place_move_the_line_there() {
        let line = fitted((0..200).map(|_| (4.0, 2.0)));
        assert_near(line.at(4.0), 2.0);
    }

    #[test]
    fn is_never_negative() {
        let falling = fitted((0..200).map(|n| f64::from(n % 7)).map(|x| (x, 20.0 - x)));
        assert_eq!(falling.slope, 0.0);
        let steep = fitted((0..200).map(|n| f64::from(1 + n % 7)).map(|x| (x, 0.0_f64.max(x - 2.0))));
        assert!(steep.base >= 0.0 && steep.slope > 0.0, "{steep:?}");
    }

    #[test]
    fn one_outlier_is_bounded_and_a_lasting_change_is_followed() {
        let mut line = Line::new(32.0);
        for n in 0..100 {
            line.add(f64::from(1 + n % 5), f64::from(1 + n % 5), PRIOR);
        }
        line.add(3.0, 1e9, PRIOR);
        assert!(line.fit(PRIOR).at(3.0) < 2.0 * 3.0, "{:?}", line.fit(PRIOR));
        for n in 0..100 {
            line.add(f64::from(1 + n % 5), 2.0 * f64::from(1 + n % 5), PRIOR);
        }
        assert_near(line.fit(PRIOR).at(3.0), 6.0);
    }
}
