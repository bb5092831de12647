//! Reusable buffers.
//!
//! On the first write to fresh memory, the system finds and clears every page, which costs as much as the copy itself.
//! Once a buffer has no readers, its pages stay here for the next buffer of about its size.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

/// Smallest buffer that is kept, in bytes. Smaller ones are cheap to allocate.
const LEAST: usize = 64 << 10;

/// Buffers that nobody reads any more.
#[derive(Debug)]
pub struct Pool {
    limit: usize,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    /// Buffers by capacity.
    buffers: BTreeMap<usize, Vec<Vec<u8>>>,
    bytes: usize,
}

impl Pool {
    /// Keeps up to `limit` bytes of buffers.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, free: Mutex::default() })
    }

    /// An empty buffer for `length` bytes.
    pub(super) fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // A reused buffer is at most an eighth larger than requested, so memory use stays close to what the caches
        // count.
        let found = free.buffers.range(length..=length + length / 8).next().map(|(capacity, _)| *capacity);
        let bytes = found.and_then(|capacity| {
            let buffers = free.buffers.get_mut(&capacity)?;
            let bytes = buffers.pop()?;
            if buffers.is_empty() {
                free.buffers.remove(&capacity);
            }
            free.bytes -= capacity;
            Some(bytes)
        });
        drop(free);
        Buffer { bytes: bytes.unwrap_or_else(|| Vec::with_capacity(length)), pool: self.clone() }
    }

    fn give(&self, mut bytes: Vec<u8>) {
        let capacity = bytes.capacity();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if capacity < LEAST || capacity > self.limit - free.bytes {
            return;
        }
        bytes.clear();
        free.bytes += capacity;
        free.buffers.entry(capacity).or_default().push(bytes);
    }

    /// Total size of the buffers that are kept.
    pub fn bytes(&self) -> usize {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

/// A buffer that returns to its pool when dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    pool: Arc<Pool>,
}

impl Buffer {
    /// The bytes, to be written.
    pub(super) const fn as_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Ends writing and shares the bytes with any number of readers.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pool: &Arc<Pool>, length: usize, value: u8) -> Bytes {
        let mut buffer = pool.take(length);
        buffer.as_mut().resize(length, value);
        buffer.freeze()
    }

    #[test]
    fn memory_is_used_again_once_its_last_reader_is_gone() {
        let pool = Pool::new(1 << 20);
        let first = filled(&pool, LEAST, 1);
        let (place, part) = (first.as_ptr(), first.slice(8..16));
        drop(first);
        assert_ne!(filled(&pool, LEAST, 2).as_ptr(), place, "a part of it is still read");
        assert_eq!(part.as_ref(), [1; 8]);
        drop(part);
        assert_eq!(pool.bytes(), 2 * LEAST);
        let places = [filled(&pool, LEAST - 100, 3), filled(&pool, LEAST, 4)];
        assert!(places.iter().any(|bytes| bytes.as_ptr() == place));
        assert_eq!(places[0].len(), LEAST - 100);
        assert_eq!(pool.bytes(), 0);
    }

    #[test]
    fn what_is_kept_is_bounded_and_fits() {
        let pool = Pool::new(3 * LEAST);
        let held: Vec<_> = (0..5).map(|value| filled(&pool, LEAST, value)).collect();
        drop(held);
        assert_eq!(pool.bytes(), 3 * LEAST);
        // A buffer twice as large as requested stays in the pool, because nobody would count the rest.
        drop(filled(&pool, LEAST / 2, 0));
        assert_eq!(pool.bytes(), 3 * LEAST);
        let small = filled(&Pool::new(0), LEAST, 7);
        assert_eq!(small.len(), LEAST);
    }
}
