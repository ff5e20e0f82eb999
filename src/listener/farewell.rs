//! The last word to the client of a WebSocket that has lost its pass.
//!
//! Owns: [`Frames`], where the frames that an app sends begin and end (RFC 6455 §5.2); [`last_word`], the frame
//! that says why it is over.
//! Must not know: sockets, time, what a message says.
//!
//! A frame of ours between two frames of the app is understood. Within one it would be a part of it, so whoever
//! stands within one at the end is told nothing.

use crate::open::Ending;

/// Follows the bytes that an app sends from the head of its 101 on. How they are cut into pieces makes no
/// difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frames(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the head of an answer, which may be one of those before the 101 (RFC 9110 §15.2).
    Head(Head),
    /// In the beginning of a frame; of none, while there is nothing of it.
    Frame { begun: [u8; LONGEST], have: usize },
    /// In what it carries.
    Payload { left: u64, then: Then },
    /// The app has said its own last word.
    Over,
    /// These are no frames: nobody knows where they end.
    Lost,
}

/// The longest beginning of a frame: two bytes, a length of eight, a mask of four.
const LONGEST: usize = 14;

const BETWEEN: State = State::Frame { begun: [0; LONGEST], have: 0 };

/// What comes after a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Another,
    Nothing,
}

/// The beginning of a head, up to its status, and how much of its end there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    line: [u8; 12],
    have: usize,
    end: usize,
}

const NO_HEAD: State = State::Head(Head { line: [0; 12], have: 0, end: 0 });

/// Where an app's frames stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Between two: a frame may be put in.
    Between,
    /// Within one.
    Within,
    /// After the last: nothing may follow.
    Over,
}

impl Frames {
    /// Before the first byte of the head.
    pub(super) fn new() -> Frames {
        Frames(NO_HEAD)
    }

    /// Where they stand.
    pub(super) fn place(&self) -> Place {
        match self.0 {
            State::Frame { have: 0, .. } => Place::Between,
            State::Over => Place::Over,
            State::Head(_) | State::Frame { .. } | State::Payload { .. } | State::Lost => Place::Within,
        }
    }

    /// `bytes` went to the client.
    pub(super) fn went(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.take(bytes);
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    /// How many of `bytes`, which are about to go to the client, belong to the frame that it has a part of.
    pub(super) fn rest(&self, bytes: &[u8]) -> usize {
        match self.place() {
            Place::Within => self.clone().take(bytes),
            Place::Between | Place::Over => 0,
        }
    }

    /// Takes bytes up to the end of the frame, at least one; says how many.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match &mut self.0 {
                State::Head(head) => {
                    at += 1;
                    if head.take(*byte) == Whole::Yes {
                        self.0 = if &head.line[9..] == b"101" { BETWEEN } else { NO_HEAD };
                    }
                }
                State::Frame { begun, have } => {
                    at += 1;
                    begun[*have] = *byte;
                    *have += 1;
                    if let Some(after) = after(&begun[..*have]) {
                        self.0 = after;
                    }
                }
                State::Payload { left, then } => {
                    let here = (bytes.len() - at) as u64;
                    let taken = here.min(*left);
                    *left -= taken;
                    at += usize::try_from(taken).unwrap_or(bytes.len());
                    if *left == 0 {
                        self.0 = if *then == Then::Another { BETWEEN } else { State::Over };
                    }
                }
                State::Over | State::Lost => return bytes.len(),
            }
            if self.place() != Place::Within {
                break;
            }
        }
        at
    }
}

/// Whether something has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    Yes,
    NotYet,
}

impl Head {
    fn take(&mut self, byte: u8) -> Whole {
        if let Some(place) = self.line.get_mut(self.have) {
            *place = byte;
            self.have += 1;
        }
        self.end = match (byte, self.end) {
            (b'\r', 0 | 2) | (b'\n', 1 | 3) => self.end + 1,
            (b'\r', _) => 1,
            _ => 0,
        };
        if self.end == 4 { Whole::Yes } else { Whole::NotYet }
    }
}

/// What follows the beginning of a frame; `None` while it is not whole.
fn after(begun: &[u8]) -> Option<State> {
    let (first, second) = (*begun.first()?, *begun.get(1)?);
    // A server masks nothing; one that does is followed all the same.
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let length = match second & 0x7f {
        126 => u64::from(u16::from_be_bytes(begun.get(2..4)?.try_into().ok()?)),
        127 => u64::from_be_bytes(begun.get(2..10)?.try_into().ok()?),
        short => u64::from(short),
    };
    let bytes_of_length = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    if length >> 63 != 0 {
        return Some(State::Lost);
    }
    if begun.len() < 2 + bytes_of_length + mask {
        return None;
    }
    let then = if first & 0x0f == CLOSE { Then::Nothing } else { Then::Another };
    Some(match (length, then) {
        (0, Then::Another) => BETWEEN,
        (0, Then::Nothing) => State::Over,
        (left, then) => State::Payload { left, then },
    })
}

/// The opcode of a frame that is the last (RFC 6455 §5.5.1).
const CLOSE: u8 = 0x8;

/// The frame that says why it is over: 1008 (policy violation), or 1013 (try again later) where nobody can say
/// (RFC 6455 §7.4, and the registry that it founded).
pub(super) fn last_word(ending: Ending) -> Vec<u8> {
    let code: u16 = match ending {
        Ending::SignedOut | Ending::Revoked | Ending::Expired | Ending::NotAllowed => 1008,
        Ending::CannotTell => 1013,
    };
    let reason = ending.sentence();
    // A frame of control carries at most 125 bytes, and its length is one of them.
    let mut frame = vec![0x80 | CLOSE, reason.len() as u8 + 2];
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(reason.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const GRANTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

    fn after_all(bytes: &[u8]) -> Frames {
        let mut frames = Frames::new();
        frames.went(bytes);
        frames
    }

    /// A frame with `length` bytes in it, its length spelt in as many bytes as `spelling` says.
    fn frame(opcode: u8, length: usize, spelling: Spelling) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        match spelling {
            Spelling::Short => frame.push(length as u8),
            Spelling::Two => {
                frame.push(126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            Spelling::Eight => {
                frame.push(127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        // Bytes that would be frames of their own, if they were taken for some.
        frame.extend(std::iter::repeat_n(0x88, length));
        frame
    }

    #[derive(Clone, Copy, Debug)]
    enum Spelling {
        Short,
        Two,
        Eight,
    }

    #[test]
    fn a_frame_may_be_put_in_where_one_ends_and_nowhere_else() {
        for (opcode, length, spelling) in [
            (1, 0, Spelling::Short),
            (2, 1, Spelling::Short),
            (1, 125, Spelling::Short),
            (2, 126, Spelling::Two),
            (2, 65_535, Spelling::Two),
            (2, 65_536, Spelling::Eight),
            // Longer than it need be spelt, which RFC 6455 forbids and nobody suffers from.
            (2, 3, Spelling::Eight),
            (9, 4, Spelling::Short),
        ] {
            let mut frames = after_all(GRANTED);
            assert_eq!(frames.place(), Place::Between);
            let frame = frame(opcode, length, spelling);
            let (last, rest) = frame.split_last().unwrap_or((&0, &[]));
            for byte in rest {
                frames.went(&[*byte]);
                assert_eq!(frames.place(), Place::Within, "{opcode} {length} {spelling:?}");
            }
            frames.went(&[*last]);
            assert_eq!(frames.place(), Place::Between, "{opcode} {length} {spelling:?}");
        }
    }

    #[test]
    fn nothing_follows_the_apps_own_last_word() {
        for length in [0, 2, 125] {
            let mut frames = after_all(&[GRANTED, &frame(CLOSE, length, Spelling::Short)].concat());
            assert_eq!(frames.place(), Place::Over, "{length}");
            frames.went(&[0x82, 0]);
            assert_eq!(frames.place(), Place::Over, "{length}");
        }
    }

    #[test]
    fn a_head_that_is_not_there_yet_and_one_before_the_last_are_no_place_for_a_frame() {
        for head in [
            &GRANTED[..GRANTED.len() - 1],
            b"",
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nX: 1\r\n",
            // What ends no head.
            b"HTTP/1.1 101 Switching Protocols\r\nX: \n\n\r\r\n\r",
        ] {
            assert_eq!(after_all(head).place(), Place::Within, "{}", head.escape_ascii());
        }
        for head in [
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n".as_slice(),
            b"HTTP/1.1 101 Switching Protocols\r\nX: \r\r\n\r\n",
        ] {
            assert_eq!(after_all(head).place(), Place::Between, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn what_cannot_be_a_length_is_followed_no_further() {
        let mut frames = after_all(GRANTED);
        frames.went(&[0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0]);
        frames.went(&[0x82, 0]);
        assert_eq!(frames.place(), Place::Within);
        assert_eq!(frames.rest(b"xx"), 2);
    }

    #[test]
    fn the_mask_of_a_server_that_masks_is_no_payload() {
        let mut frames = after_all(GRANTED);
        frames.went(&[0x82, 0x82, 1, 2, 3, 4, 5]);
        assert_eq!(frames.place(), Place::Within);
        frames.went(&[6]);
        assert_eq!(frames.place(), Place::Between);
        frames.went(&[0x89, 0x80, 1, 2, 3]);
        assert_eq!(frames.place(), Place::Within);
        frames.went(&[4]);
        assert_eq!(frames.place(), Place::Between);
    }

    #[test]
    fn the_last_word_is_a_frame_that_ends_the_frames() {
        for (ending, code) in [
            (Ending::SignedOut, 1008),
            (Ending::Revoked, 1008),
            (Ending::Expired, 1008),
            (Ending::NotAllowed, 1008),
            (Ending::CannotTell, 1013_u16),
        ] {
            let word = last_word(ending);
            assert!(word.len() <= 2 + 125, "{ending:?}");
            assert_eq!(word[2..4], code.to_be_bytes(), "{ending:?}");
            assert!(std::str::from_utf8(&word[4..]).is_ok_and(|reason| reason.len() > 5), "{ending:?}");
            assert_eq!(after_all(&[GRANTED, &word].concat()).place(), Place::Over, "{ending:?}");
        }
    }

    fn frames_of_all_kinds() -> impl Strategy<Value = Vec<u8>> {
        let spelling = prop_oneof![
            (0_usize..126).prop_map(|length| (length, Spelling::Short)),
            (0_usize..300).prop_map(|length| (length, Spelling::Two)),
            (0_usize..300).prop_map(|length| (length, Spelling::Eight)),
        ];
        let frame = (prop_oneof![Just(0), Just(1), Just(2), Just(9), Just(10)], spelling)
            .prop_map(|(opcode, (length, spelling))| frame(opcode, length, spelling));
        (vec(frame, 0..6), vec(any::<u8>(), 0..20)).prop_map(|(frames, odds)| {
            let mut bytes = GRANTED.to_vec();
            bytes.extend(frames.concat());
            bytes.extend(odds);
            bytes
        })
    }

    proptest! {
        #[test]
        fn how_bytes_are_cut_makes_no_difference(
            bytes in frames_of_all_kinds(),
            cuts in vec(1_usize..40, 1..60),
        ) {
            let whole = after_all(&bytes);
            let mut pieces = Frames::new();
            let (mut rest, mut cuts) = (bytes.as_slice(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (piece, later) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                pieces.went(piece);
                rest = later;
            }
            prop_assert_eq!(pieces, whole);
        }

        #[test]
        fn the_rest_of_a_frame_leads_between_two(bytes in frames_of_all_kinds(), at in 0_usize..400) {
            let (gone, coming) = bytes.split_at(at.min(bytes.len()));
            let mut frames = after_all(gone);
            let rest = frames.rest(coming);
            prop_assert!(rest <= coming.len());
            prop_assert_eq!(rest == 0, coming.is_empty() || frames.place() != Place::Within);
            for byte in &coming[..rest.saturating_sub(1)] {
                frames.went(&[*byte]);
                prop_assert_eq!(frames.place(), Place::Within);
            }
            if rest > 0 {
                frames.went(&coming[rest - 1..rest]);
                prop_assert!(rest == coming.len() || frames.place() != Place::Within);
            }
        }
    }
}
