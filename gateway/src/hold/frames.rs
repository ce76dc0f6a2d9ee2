use std::ops::Deref;

use bytes::{Bytes, BytesMut};

/// Frames below this size are copied into the frame before them. Larger ones are shared with the connection's buffer.
const SMALL_FRAME_BYTES: usize = 4 << 10;
/// A frame that small frames were copied into does not grow beyond this size.
const JOINED_FRAME_BYTES: usize = 64 << 10;
/// Frames that are never copied: the body of a usual request arrives in fewer.
const FIRST_FRAMES: usize = 4;

/// Frames of a body in order.
///
/// A frame costs memory besides its bytes: its handle, and a buffer that it may keep alive alone. A client that sends one
/// byte per chunk would occupy 40 times the bytes that are counted, so small frames are joined.
#[derive(Debug, Default)]
pub(super) struct Frames(Vec<Bytes>);

impl Frames {
    pub(super) fn push(&mut self, frame: Bytes) {
        if self.0.len() < FIRST_FRAMES || frame.len() >= SMALL_FRAME_BYTES {
            self.0.push(frame);
            return;
        }
        let last = self.0.pop().unwrap_or_default();
        let is_full = last.len() + frame.len() > JOINED_FRAME_BYTES;
        let mut joined = match last.try_into_mut() {
            Ok(own) if !is_full => own,
            // Shared with the connection's buffer.
            Err(shared) if shared.len() < SMALL_FRAME_BYTES => BytesMut::from(&shared[..]),
            full => {
                self.0.push(full.map_or_else(|shared| shared, BytesMut::freeze));
                BytesMut::with_capacity(SMALL_FRAME_BYTES)
            }
        };
        joined.extend_from_slice(&frame);
        self.0.push(joined.freeze());
    }

    pub(super) fn extend(&mut self, frames: impl IntoIterator<Item = Bytes>) {
        for frame in frames {
            self.push(frame);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn into_vec(self) -> Vec<Bytes> {
        self.0
    }
}

impl Deref for Frames {
    type Target = [Bytes];

    fn deref(&self) -> &[Bytes] {
        &self.0
    }
}

impl FromIterator<Bytes> for Frames {
    fn from_iter<T: IntoIterator<Item = Bytes>>(frames: T) -> Self {
        let mut all = Self::default();
        all.extend(frames);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_frames_are_joined_in_order() {
        // Each frame is a slice of one large buffer, as hyper's are.
        let buffer: Bytes = (0..2 << 20).map(|at| (at % 251) as u8).collect::<Vec<_>>().into();
        for (name, mut next_bytes) in [
            ("one byte", Box::new(|| 1_usize) as Box<dyn FnMut() -> usize>),
            ("random", Box::new(|| fastrand::usize(1..300))),
            ("mixed", Box::new(|| if fastrand::bool() { 1 } else { SMALL_FRAME_BYTES })),
        ] {
            let mut frames = Frames::default();
            let (mut at, mut pushed) = (0, 0_usize);
            while at < buffer.len() {
                let end = (at + next_bytes()).min(buffer.len());
                frames.push(buffer.slice(at..end));
                (at, pushed) = (end, pushed + 1);
            }
            assert_eq!(frames.concat(), &buffer[..], "{name}");
            let longest = frames.iter().map(Bytes::len).max().unwrap();
            let average = buffer.len() / frames.len();
            println!("{name}: {pushed} frames became {}, {average} bytes each", frames.len());
            assert!(longest <= JOINED_FRAME_BYTES && average >= SMALL_FRAME_BYTES / 2, "{name}: {average}");
        }
    }

    #[test]
    fn usual_frames_are_shared() {
        let buffer: Bytes = vec![1; 64 << 10].into();
        let mut frames = Frames::default();
        for at in 0..4 {
            frames.push(buffer.slice(at..=at));
        }
        frames.push(buffer.slice(100..100 + SMALL_FRAME_BYTES));
        let pointers: Vec<_> =
            frames.iter().map(|frame| frame.as_ptr() as usize - buffer.as_ptr() as usize).collect();
        assert_eq!(pointers, [0, 1, 2, 3, 100]);
    }
}
