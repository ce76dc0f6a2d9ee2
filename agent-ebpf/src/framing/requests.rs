//! The ring of pending requests: how requests end.

use super::{
    atomic::replace_u32,
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

/// Ends every open request as aborted.
#[inline(always)]
pub(super) fn abort_all(connection: &mut Connection, direction: Direction) {
    for _ in 0..MAX_PENDING {
        let number = connection.ended;
        if number == connection.begun {
            return;
        }
        if end(connection, number, direction)
            && connection.pending[(number % MAX_PENDING) as usize].is_counted()
        {
            match direction {
                Direction::Ingress => connection.request.effects.aborted += 1,
                Direction::Egress => connection.response.effects.aborted += 1,
            }
        }
    }
}
