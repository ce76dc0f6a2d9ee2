//! Correction of gauges that disagree with the connections.

use forebay_agent_ebpf::maps::Load;

/// Drift of the gauges of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EndpointDrift {
    pub(super) in_flight: Drift,
    pub(super) waiting_bytes: Drift,
}

impl EndpointDrift {
    /// Subtracts the confirmed drift. Requests that no connection has are reported as aborted.
    pub(super) fn correct(&self, load: &mut Load) {
        load.in_flight = load.in_flight.wrapping_sub_signed(self.in_flight.confirmed);
        load.aborted = load.aborted.wrapping_add_signed(self.in_flight.confirmed);
        load.waiting_bytes = load.waiting_bytes.wrapping_sub_signed(self.waiting_bytes.confirmed);
    }
}

/// Difference between a gauge in `LOADS` and the sum over the connections of the endpoint.
///
/// A socket that closes on one CPU while its next request arrives on another removes its entry while the program still
/// uses it. What that request added to the gauge is then never subtracted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Drift {
    last: i64,
    /// Found by two sweeps in a row.
    confirmed: i64,
}

impl Drift {
    /// Takes the gauge and the sum over the connections of one sweep. Returns a newly confirmed drift.
    pub(super) fn observe(&mut self, gauge: u64, connections: i64) -> Option<i64> {
        let found = (gauge as i64).wrapping_sub(connections);
        let is_new = found == self.last && found != self.confirmed;
        if is_new {
            self.confirmed = found;
        }
        self.last = found;
        is_new.then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corrects_a_gauge_after_two_equal_sweeps() {
        let mut drift = EndpointDrift::default();
        let load = Load { in_flight: 3, waiting_bytes: 500, aborted: 1, ..Load::default() };
        assert_eq!(drift.in_flight.observe(load.in_flight, 1), None);
        assert_eq!(drift.waiting_bytes.observe(load.waiting_bytes, 100), None);
        let mut corrected = load;
        drift.correct(&mut corrected);
        assert_eq!(corrected, load);

        assert_eq!(drift.in_flight.observe(load.in_flight, 1), Some(2));
        assert_eq!(drift.waiting_bytes.observe(load.waiting_bytes, 100), Some(400));
        drift.correct(&mut corrected);
        assert_eq!((corrected.in_flight, corrected.waiting_bytes, corrected.aborted), (1, 100, 3));
        assert_eq!(drift.in_flight.observe(load.in_flight, 1), None, "reported once");
    }
}
