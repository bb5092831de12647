//! A response body of refcounted slices with an exact length.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Slices as frames. Because the length is exact, hyper sends `content-length` instead of a chunked encoding. A client
/// that reads slowly costs reference counts, not memory.
pub(super) struct Slices<I> {
    chunks: I,
    left: u64,
}

impl<I> Slices<I> {
    /// A body of `length` bytes, the sum of `chunks`.
    pub(super) const fn new(chunks: I, length: u64) -> Self {
        Self { chunks, left: length }
    }
}

impl<I: Iterator<Item = (u64, Bytes)> + Unpin> Body for Slices<I> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some((_, chunk)) = self.chunks.next() else { return Poll::Ready(None) };
        self.left -= chunk.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
