//! Reusable buffers, and the bound on the memory of all that is made.
//!
//! On the first write to fresh memory, the system finds and clears every page, which costs as much as the copy itself.
//! Once a buffer has no readers, its pages stay here for the next buffer of about its size.
//!
//! Whoever makes bytes reserves them first. A reservation turns into buffers, and a buffer counts until its last reader
//! is gone, whether that is a cache or a client who reads slowly. So the sum of both is what the process holds, and a
//! request that would exceed the limit is known before its work begins.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

/// Smallest buffer that is kept, in bytes. Smaller ones are cheap to allocate.
const LEAST: usize = 64 << 10;

/// A reservation above this share of the limit leaves the same share free, so that a few large requests never keep all
/// small ones waiting.
const LARGE: usize = 8;

/// Buffers in use, reservations, and buffers that nobody reads any more.
pub struct Pool {
    keep: usize,
    limit: usize,
    state: Mutex<State>,
    released: Box<dyn Fn() + Send + Sync>,
}

#[derive(Debug, Default)]
struct State {
    /// Unused buffers by capacity.
    free: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Bytes of unused buffers.
    kept: usize,
    /// Bytes of buffers in use, and bytes that are reserved.
    used: usize,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keep, limit, state, released: _ } = self;
        f.debug_struct("Pool")
            .field("keep", keep)
            .field("limit", limit)
            .field("state", state)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Reserves up to `limit` bytes at a time, and keeps up to `keep` bytes of unused buffers. Calls `released` after
    /// bytes in use became free.
    pub fn new(keep: usize, limit: usize, released: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { keep, limit, state: Mutex::default(), released: Box::new(released) })
    }

    /// Reserves `bytes`, or nothing while too many are in use.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        let mut state = self.state();
        let aside = if bytes > self.limit / LARGE { self.limit / LARGE } else { 0 };
        if state.used.saturating_add(bytes) > self.limit - aside {
            return None;
        }
        state.used += bytes;
        Some(Reservation { pool: self.clone(), bytes })
    }

    /// Counts `bytes` that exist already, without regard to the limit.
    pub fn count(self: &Arc<Self>, bytes: usize) -> Reservation {
        self.state().used += bytes;
        Reservation { pool: self.clone(), bytes }
    }

    /// Most bytes in use and reserved.
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes of buffers in use, and of reservations.
    pub fn used(&self) -> usize {
        self.state().used
    }

    /// Total size of the unused buffers that are kept.
    pub fn kept(&self) -> usize {
        self.state().kept
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, bytes: usize) {
        self.state().used -= bytes;
        (self.released)();
    }

    /// Takes a buffer back that counted as `capacity`.
    fn give(&self, mut bytes: Vec<u8>, capacity: usize) {
        let mut state = self.state();
        state.used -= capacity;
        if bytes.capacity() >= LEAST && bytes.capacity() <= self.keep - state.kept {
            bytes.clear();
            state.kept += bytes.capacity();
            state.free.entry(bytes.capacity()).or_default().push(bytes);
        }
        drop(state);
        (self.released)();
    }
}

/// Bytes that may be made. Dropping it gives back what was not made.
#[derive(Debug)]
pub struct Reservation {
    pool: Arc<Pool>,
    bytes: usize,
}

impl Reservation {
    /// Of a pool of its own, without a limit.
    pub fn unlimited() -> Self {
        Self { pool: Pool::new(0, usize::MAX, || ()), bytes: 0 }
    }

    /// Bytes that are left.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// An empty buffer for `length` bytes, from what is reserved. What was reserved too little is counted all the same.
    pub(super) fn take(&mut self, length: usize) -> Buffer {
        let mut state = self.pool.state();
        // A reused buffer is at most an eighth larger than requested, so memory use stays close to what the caches
        // count.
        let found = state.free.range(length..=length + length / 8).next().map(|(capacity, _)| *capacity);
        let bytes = found.and_then(|capacity| {
            let buffers = state.free.get_mut(&capacity)?;
            let bytes = buffers.pop()?;
            if buffers.is_empty() {
                state.free.remove(&capacity);
            }
            state.kept -= capacity;
            Some(bytes)
        });
        drop(state);
        self.own(bytes.unwrap_or_else(|| Vec::with_capacity(length)))
    }

    /// Counts `bytes` until their last reader is gone.
    pub(super) fn keep(&mut self, bytes: Bytes) -> Bytes {
        self.own(bytes.into()).freeze()
    }

    fn own(&mut self, bytes: Vec<u8>) -> Buffer {
        let reserved = self.bytes.min(bytes.capacity());
        self.bytes -= reserved;
        self.pool.state().used += bytes.capacity() - reserved;
        Buffer { capacity: bytes.capacity(), bytes, pool: self.pool.clone() }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.pool.release(self.bytes);
        }
    }
}

/// A buffer that returns to its pool when dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// What the pool counts for it. Writing beyond it would move the bytes.
    capacity: usize,
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
        debug_assert_eq!(self.capacity, self.bytes.capacity(), "a buffer grew");
        self.pool.give(std::mem::take(&mut self.bytes), self.capacity);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn kept(limit: usize) -> Arc<Pool> {
        Pool::new(limit, usize::MAX, || ())
    }

    fn filled(pool: &Arc<Pool>, length: usize, value: u8) -> Bytes {
        let mut buffer = pool.reserve(0).unwrap().take(length);
        buffer.as_mut().resize(length, value);
        buffer.freeze()
    }

    #[test]
    fn memory_is_used_again_once_its_last_reader_is_gone() {
        let pool = kept(1 << 20);
        let first = filled(&pool, LEAST, 1);
        let (place, part) = (first.as_ptr(), first.slice(8..16));
        drop(first);
        assert_ne!(filled(&pool, LEAST, 2).as_ptr(), place, "a part of it is still read");
        assert_eq!(part.as_ref(), [1; 8]);
        drop(part);
        assert_eq!(pool.kept(), 2 * LEAST);
        let places = [filled(&pool, LEAST - 100, 3), filled(&pool, LEAST, 4)];
        assert!(places.iter().any(|bytes| bytes.as_ptr() == place));
        assert_eq!(places[0].len(), LEAST - 100);
        assert_eq!(pool.kept(), 0);
    }

    #[test]
    fn what_is_kept_is_bounded_and_fits() {
        let pool = kept(3 * LEAST);
        let held: Vec<_> = (0..5).map(|value| filled(&pool, LEAST, value)).collect();
        drop(held);
        assert_eq!(pool.kept(), 3 * LEAST);
        // A buffer twice as large as requested stays in the pool, because nobody would count the rest.
        drop(filled(&pool, LEAST / 2, 0));
        assert_eq!(pool.kept(), 3 * LEAST);
        let small = filled(&kept(0), LEAST, 7);
        assert_eq!(small.len(), LEAST);
    }

    #[test]
    fn what_is_reserved_counts_until_its_last_reader_is_gone() {
        let released = Arc::new(AtomicUsize::new(0));
        let count = released.clone();
        let pool = Pool::new(0, 1000, move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let mut first = pool.reserve(800).unwrap();
        assert!(pool.reserve(201).is_none());
        let mut buffer = first.take(300);
        buffer.as_mut().resize(300, 1);
        let reader = buffer.freeze();
        assert_eq!((pool.used(), first.bytes()), (800, 500));
        drop(first);
        assert_eq!((pool.used(), released.load(Ordering::Relaxed)), (300, 1));
        let part = reader.slice(1..2);
        drop(reader);
        assert_eq!(pool.used(), 300, "a part of it is still read");
        drop(part);
        assert_eq!((pool.used(), released.load(Ordering::Relaxed)), (0, 2));
    }

    #[test]
    fn large_reservations_leave_room_for_small_ones() {
        let pool = Pool::new(0, 1000, || ());
        assert!(pool.reserve(876).is_none());
        let large = [pool.reserve(500).unwrap(), pool.reserve(375).unwrap()];
        assert!(pool.reserve(126).is_none());
        let small = pool.reserve(125).unwrap();
        assert!(pool.reserve(1).is_none());
        drop((large, small));
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn what_was_reserved_too_little_is_counted() {
        let pool = Pool::new(0, 1000, || ());
        let mut small = pool.reserve(10).unwrap();
        let kept = small.keep(Bytes::from(vec![0; 700]));
        assert_eq!((pool.used(), small.bytes()), (700, 0));
        drop((small, kept));
        assert_eq!(pool.used(), 0);
    }
}
