//! The ring of pending requests: how requests end.

use super::{
    atomic::replace_u32,
    ended::{Ended, Outcome, known},
    half::Phase,
    state::{Connection, MAX_PENDING},
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

/// Ends request `number`. Returns `false` if the other direction ended it first.
#[inline(always)]
pub(super) fn end(connection: &mut Connection, number: u32, direction: Direction) -> bool {
    let waiting = connection.pending[(number % MAX_PENDING) as usize].stop_waiting();
    match direction {
        Direction::Ingress => connection.request.effects.waiting_bytes -= waiting,
        Direction::Egress => connection.response.effects.waiting_bytes -= waiting,
    }
    replace_u32(&mut connection.ended, number, number.wrapping_add(1))
}

/// Ends every open request as aborted. The first one is recorded.
#[inline(always)]
pub(super) fn abort_all(connection: &mut Connection, direction: Direction, now_ns: u64) {
    for _ in 0..MAX_PENDING {
        let number = connection.ended;
        if number == connection.begun {
            return;
        }
        if end(connection, number, direction)
            && connection.pending[(number % MAX_PENDING) as usize].is_counted()
        {
            let ended = aborted(connection, number, now_ns);
            let effects = match direction {
                Direction::Ingress => &mut connection.request.effects,
                Direction::Egress => &mut connection.response.effects,
            };
            effects.aborted += 1;
            if effects.ended.outcome == Outcome::NONE {
                effects.ended = ended;
            }
        }
    }
}

/// The counts of an aborted request. Those of the response are known unless framing was lost before it began.
#[inline(always)]
fn aborted(connection: &Connection, number: u32, now_ns: u64) -> Ended {
    let started_ns = connection.pending[(number % MAX_PENDING) as usize].started_ns;
    let duration_ns = now_ns.saturating_sub(started_ns);
    let (phase, index) = (connection.response.phase, connection.response.index);
    if phase != Phase::IDLE && index == number {
        return connection.reply.ended(Outcome::ABORTED, 0, phase == Phase::LOST, duration_ns);
    }
    let mut ended =
        Ended { duration_ns, known: known::DURATION, outcome: Outcome::ABORTED, ..Ended::default() };
    if phase != Phase::LOST {
        // No response was begun.
        ended.known |= known::BYTES | known::CHUNKS;
    }
    ended
}
