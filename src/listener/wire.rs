//! What both sides know of a wire: the stream that Pingora owns, and the request that is served over it.
//!
//! Owns: [`Wire`], where a connection stands; [`Unread`], why a head became no request and what its client is told.
//! Must not know: bytes that come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::Waker;

use arc_swap::ArcSwapOption;
use futures_util::task::AtomicWaker;

use crate::open::{Ending, Line};

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// A head is being read. The time and the bytes that it may take are running.
    Head,
    /// A request is being served; or the connection is HTTP/2, where the library bounds its heads.
    Serving,
    /// Between two requests: the next byte begins a head.
    Idle,
}

/// What is known of the wire on both sides: by the stream that Pingora owns, and by the request.
#[derive(Debug)]
pub(super) struct Wire {
    phase: AtomicU8,
    reader: AtomicWaker,
    /// The request that has the wire for itself. None in HTTP/2.
    line: ArcSwapOption<Line>,
    /// Whether that request has become a WebSocket.
    tunnel: AtomicBool,
    /// Whether it was ended: nothing more goes in or out but a goodbye.
    over: AtomicBool,
    /// Why the last head became no request. 0: it did, or is awaited.
    unread: AtomicU8,
}

/// Why a head became no request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unread {
    /// 400: Pingora's parser makes nothing of it.
    Garbled = 1,
    /// 408: it was not whole in time.
    Late,
    /// 414: its first line is longer than anybody wants to read.
    Long,
    /// 431: the rest of it is.
    Large,
}

impl Unread {
    pub(super) fn status(self) -> u16 {
        match self {
            Unread::Garbled => 400,
            Unread::Late => 408,
            Unread::Long => 414,
            Unread::Large => 431,
        }
    }

    /// As the access line says it.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Unread::Garbled => "The request is not HTTP.",
            Unread::Late => "The head of the request did not come in time.",
            Unread::Long => "The first line of the request is too long.",
            Unread::Large => "The head of the request is too large.",
        }
    }

    /// As its client is told, byte for byte.
    pub(super) fn answer(self) -> &'static [u8] {
        match self {
            Unread::Garbled => GARBLED,
            Unread::Late => TOO_LATE,
            Unread::Long => TOO_LONG,
            Unread::Large => TOO_LARGE,
        }
    }
}

impl Wire {
    pub(super) fn new() -> Arc<Wire> {
        let phase = AtomicU8::new(Phase::Head as u8);
        Arc::new(Wire {
            phase,
            reader: AtomicWaker::new(),
            line: ArcSwapOption::empty(),
            tunnel: AtomicBool::new(false),
            over: AtomicBool::new(false),
            unread: AtomicU8::new(0),
        })
    }

    /// Why the connection ended with a head that became no request; `None` if it did not.
    pub(super) fn unread(&self) -> Option<Unread> {
        [Unread::Garbled, Unread::Late, Unread::Long, Unread::Large]
            .into_iter()
            .find(|unread| *unread as u8 == self.unread.load(Ordering::Acquire))
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Head,
            1 => Phase::Serving,
            _ => Phase::Idle,
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// A head became no request.
    pub(super) fn cannot_read(&self, unread: Unread) {
        self.unread.store(unread as u8, Ordering::Release);
    }

    /// Has `waker` woken when the request is ended.
    pub(super) fn wakes(&self, waker: &Waker) {
        self.reader.register(waker);
    }

    /// The head of a request is whole.
    pub(super) fn head_is_read(&self) {
        self.enter(Phase::Serving);
    }

    /// A request is awaited; `line` is where it will be ended from.
    pub(super) fn next_request(&self, line: Arc<Line>) {
        if self.phase() == Phase::Serving {
            self.enter(Phase::Idle);
        }
        self.line.store(Some(line));
    }

    /// The head of a 101 is about to be written; what follows it are frames.
    pub(super) fn becomes_tunnel(&self) {
        self.tunnel.store(true, Ordering::Release);
    }

    /// Whether frames are written.
    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Acquire)
    }

    /// The request was ended: the stream is to say goodbye, and to fail then.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.reader.wake();
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(super) fn ending(&self) -> Option<Ending> {
        self.line.load().as_ref().and_then(|line| line.ending())
    }
}

const GARBLED: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\ncache-control: no-store\r\nconnection: close\r\n\r\n";
const TOO_LATE: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\ncache-control: no-store\r\nconnection: close\r\n\r\n";
const TOO_LONG: &[u8] =
    b"HTTP/1.1 414 URI Too Long\r\ncontent-length: 0\r\ncache-control: no-store\r\nconnection: close\r\n\r\n";
const TOO_LARGE: &[u8] =
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\ncache-control: no-store\r\nconnection: close\r\n\r\n";
