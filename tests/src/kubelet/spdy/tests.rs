use proptest::prelude::*;

use super::headers::dictionary;
use super::*;

/// What another implementation writes on one connection, one frame in each line.
const GOLDEN: [&str; 11] = [
    "80030001000000290000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff",
    "800300010000001700000003000000000000c22e555c92929907000000ffff",
    "800300020000000e000000026260606000000000ffff",
    "800300010100001c00000005000000000000824ab314e41781338985818501000000ffff",
    "000000030000000568656c6c6f",
    "0000000301000000",
    "800300060000000400000001",
    "80030003000000080000000300000005",
    "80030007000000080000000500000000",
    "800300040000000c000000010000000400000064",
    "80030009000000080000000300000009",
];

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn headers(pairs: &[(&str, &str)]) -> Headers {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn syn(stream: u32, fin: bool, pairs: &[(&str, &str)]) -> Frame {
    let headers = headers(pairs);
    Frame::SynStream { stream, fin, headers }
}

fn data(stream: u32, fin: bool, bytes: &'static [u8]) -> Frame {
    let bytes = Bytes::from_static(bytes);
    Frame::Data { stream, fin, bytes }
}

/// The frames of [`GOLDEN`]; the last two say nothing to us.
fn frames() -> Vec<Frame> {
    vec![
        syn(1, false, &[("streamtype", "error")]),
        syn(3, false, &[("streamtype", "stdin")]),
        Frame::SynReply {
            stream: 2,
            fin: false,
            headers: Headers::new(),
        },
        syn(5, true, &[("port", "8080")]),
        data(3, false, b"hello"),
        data(3, true, b""),
        Frame::Ping { id: 1 },
        Frame::Reset {
            stream: 3,
            status: CANCEL,
        },
        Frame::GoAway {
            last_good: 5,
            status: 0,
        },
    ]
}

fn all(decoder: &mut Decoder) -> Vec<Frame> {
    std::iter::from_fn(|| decoder.next().unwrap()).collect()
}

#[test]
fn the_dictionary_is_that_of_the_protocol() {
    let (mut low, mut high) = (1_u32, 0_u32);
    for byte in dictionary() {
        low = (low + u32::from(byte)) % 65521;
        high = (high + low) % 65521;
    }
    // Adler-32, as every packed connection begins with it.
    assert_eq!((dictionary().len(), high << 16 | low), (1423, 0xe3c6_a7c2));
}

#[test]
fn frames_of_others_are_understood() {
    let mut decoder = Decoder::new();
    decoder.feed(&bytes(&GOLDEN.concat()));
    assert_eq!(all(&mut decoder), frames());
}

#[test]
fn frames_arrive_in_pieces_of_any_size() {
    let mut decoder = Decoder::new();
    let mut seen = Vec::new();
    for byte in bytes(&GOLDEN.concat()) {
        decoder.feed(&[byte]);
        seen.extend(all(&mut decoder));
    }
    let hello: Vec<Frame> = (0..5).map(|at| data(3, false, &b"hello"[at..=at])).collect();
    let mut wanted = frames();
    wanted.splice(4..5, hello);
    assert_eq!(seen, wanted);
}

#[test]
fn frames_without_headers_are_written_as_others_write_them() {
    let mut encoder = Encoder::new().unwrap();
    for (hex, frame) in GOLDEN.iter().zip(frames()).skip(4) {
        let mut out = BytesMut::new();
        encoder.encode(&frame, &mut out).unwrap();
        assert_eq!(out, bytes(hex), "{frame:?}");
    }
}

#[test]
fn what_is_written_is_read_again() {
    let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new());
    for round in 0..100 {
        for frame in frames() {
            let mut out = BytesMut::new();
            encoder.encode(&frame, &mut out).unwrap();
            decoder.feed(&out);
            assert_eq!(all(&mut decoder), [frame], "round {round}");
        }
    }
    let long = "x".repeat(60_000);
    let frame = syn(7, false, &[("long", &long)]);
    let mut out = BytesMut::new();
    encoder.encode(&frame, &mut out).unwrap();
    decoder.feed(&out);
    assert_eq!(all(&mut decoder), [frame]);
}

#[test]
fn long_data_is_cut_and_ends_once() {
    let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new());
    let bytes = Bytes::from(vec![7; DATA_LIMIT + 1]);
    let mut out = BytesMut::new();
    let (stream, fin) = (1, true);
    encoder.encode(&Frame::Data { stream, fin, bytes }, &mut out).unwrap();
    decoder.feed(&out);
    let ends = all(&mut decoder).into_iter().map(|frame| {
        let Frame::Data { fin, bytes, .. } = frame else {
            panic!("{frame:?}");
        };
        (fin, bytes.len())
    });
    assert_eq!(ends.collect::<Vec<_>>(), [(false, DATA_LIMIT), (true, 1)]);
}

#[test]
fn what_cannot_be_is_an_error() {
    let cases = [
        ("8002000600000004", FrameError::Version(2)),
        ("8003000100000000", FrameError::Short),
        ("80030001ffffffff", FrameError::TooLong(0xff_ffff)),
        ("800300030000000400000001", FrameError::Short),
        ("800300020000000600000001ffff", FrameError::Headers(HeaderError::Packed)),
    ];
    for (hex, error) in cases {
        let mut decoder = Decoder::new();
        decoder.feed(&bytes(hex));
        assert_eq!(decoder.next(), Err(error), "{hex}");
    }
}

#[test]
fn packed_headers_do_not_grow_without_bound() {
    let (mut compress, mut packed) = (
        flate2::Compress::new(flate2::Compression::best(), true),
        Vec::with_capacity(1 << 20),
    );
    compress.set_dictionary(&dictionary()).unwrap();
    let zeroes = vec![0; 8 << 20];
    compress
        .compress_vec(&zeroes, &mut packed, flate2::FlushCompress::Sync)
        .unwrap();
    assert!(packed.len() < CONTROL_LIMIT - 4);
    let mut frame = BytesMut::new();
    control(&mut frame, SYN_REPLY, false, packed.len() + 4);
    frame.put_u32(1);
    frame.extend_from_slice(&packed);
    let mut decoder = Decoder::new();
    decoder.feed(&frame);
    assert_eq!(decoder.next(), Err(FrameError::Headers(HeaderError::TooLong)));
}

/// Golden frames with some of their bytes changed, so that what is deep inside is reached too.
fn changed() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    changes.prop_map(|changes| {
        let mut all = bytes(&GOLDEN.concat());
        for (at, byte) in changes {
            let at = at.index(all.len());
            all[at] = byte;
        }
        all
    })
}

proptest! {
    #[test]
    fn no_bytes_do_harm(bytes in prop_oneof![changed(), prop::collection::vec(any::<u8>(), 0..512)], cut in 1_usize..64) {
        let mut decoder = Decoder::new();
        'all: for piece in bytes.chunks(cut) {
            decoder.feed(piece);
            loop {
                match decoder.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'all,
                }
            }
        }
    }
}
