use arrow::array::{
    Array, AsArray, DictionaryArray, Int32Array, Int64Array, ListBuilder, StringArray, StringViewArray,
    StringViewBuilder, StructArray, UInt8Array,
};
use arrow::datatypes::{DataType, Field, Fields, Int32Type, Schema};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

fn format(batch: &RecordBatch, compression: Compression) -> Arc<FrameFormat> {
    Arc::new(FrameFormat::new(batch.schema(), compression).unwrap())
}

fn encode(batches: &[RecordBatch], compression: Compression) -> Vec<u8> {
    let mut encoder = FrameEncoder::new(format(&batches[0], compression));
    let mut context = IpcWriteContext::default();
    let frames = batches.iter().map(|b| encoder.encode(b, &mut context).unwrap());
    frames.flatten().collect()
}

/// Reads in pieces of `step` bytes.
fn decode(like: &RecordBatch, bytes: &[u8], step: usize) -> Result<Vec<RecordBatch>, FrameError> {
    let mut decoder = FrameDecoder::starting_at(format(like, Compression::None), 0);
    let mut batches = Vec::new();
    for part in bytes.chunks(step) {
        batches.extend(decoder.push(part)?);
    }
    decoder.finish()?;
    Ok(batches)
}

fn long_strings(rows: usize) -> StringViewArray {
    StringViewArray::from_iter_values((0..rows).map(|i| format!("a string that is not inlined, number {i}")))
}

/// Rows of many types, some null.
fn mixed(rows: usize) -> RecordBatch {
    let keys = Int32Array::from_iter((0..rows).map(|i| (i % 3 != 0).then_some((i % 2) as i32)));
    let words: ArrayRef = Arc::new(StringArray::from(vec!["one", "two"]));
    let dictionary = DictionaryArray::<Int32Type>::new(keys, words);
    let mut lists = ListBuilder::new(StringViewBuilder::new());
    for i in 0..rows {
        for _ in 0..i % 4 {
            lists
                .values()
                .append_value("a long string in a list, not inlined");
        }
        lists.append(i % 5 != 0);
    }
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter(
        (0..rows).map(|i| (i % 7 != 0).then_some(i as i64)),
    ));
    let fields = Fields::from(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("d", dictionary.data_type().clone(), true),
    ]);
    let dictionary: ArrayRef = Arc::new(dictionary);
    let columns = vec![Arc::clone(&numbers), Arc::clone(&dictionary)];
    let nested = StructArray::new(fields, columns, None);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("numbers", numbers),
        ("views", Arc::new(long_strings(rows))),
        ("dictionary", dictionary),
        ("lists", Arc::new(lists.finish())),
        ("nested", Arc::new(nested)),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn without_columns(rows: usize) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap()
}

#[test]
fn rows_come_back_however_the_bytes_are_cut() {
    for compression in COMPRESSIONS {
        let all = mixed(100);
        let batches = [all.clone(), all.slice(3, 40), all.slice(0, 0), all.slice(99, 1)];
        let bytes = encode(&batches, compression);
        for step in [1, 19, 21, 64, 1000, bytes.len()] {
            assert_eq!(
                decode(&all, &bytes, step).unwrap(),
                batches,
                "{compression:?} {step}"
            );
        }
    }
}

#[test]
fn rows_without_columns_keep_their_number() {
    for rows in [0, 1, 8192, 5_000_000] {
        let batch = without_columns(rows);
        let bytes = encode(std::slice::from_ref(&batch), Compression::Lz4);
        assert_eq!(decode(&batch, &bytes, 7).unwrap(), [batch]);
    }
}

#[test]
fn a_thousand_columns_and_a_huge_row_come_back() {
    let wide: Vec<(String, ArrayRef)> = (0..1000)
        .map(|i| {
            let column: ArrayRef = Arc::new(Int32Array::from(vec![i, i + 1]));
            (format!("c{i}"), column)
        })
        .collect();
    let huge: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(20 << 20)]));
    let wide = RecordBatch::try_from_iter(wide).unwrap();
    let huge = RecordBatch::try_from_iter([("huge", huge)]).unwrap();
    for batch in [wide, huge] {
        for compression in COMPRESSIONS {
            let bytes = encode(std::slice::from_ref(&batch), compression);
            let back = decode(&batch, &bytes, 1 << 20).unwrap();
            assert_eq!(back, std::slice::from_ref(&batch));
        }
    }
}

#[test]
fn slices_do_not_ship_what_they_share() {
    let all = mixed(8192);
    let whole = encode(std::slice::from_ref(&all), Compression::None).len();
    let part = encode(&[all.slice(100, 8)], Compression::None).len();
    assert!(part < 8192 && whole > 500_000, "{part} of {whole}");
    let values: ArrayRef = Arc::new(long_strings(100_000));
    let keys = UInt8Array::from(vec![3, 3, 7]);
    let keys = arrow::compute::cast(&keys, &DataType::Int32).unwrap();
    let few = DictionaryArray::new(keys.as_primitive::<Int32Type>().clone(), values);
    let few: ArrayRef = Arc::new(few);
    let few = RecordBatch::try_from_iter([("d", few)]).unwrap();
    let bytes = encode(std::slice::from_ref(&few), Compression::None);
    assert!(bytes.len() < 2048, "{}", bytes.len());
    assert_eq!(decode(&few, &bytes, 100).unwrap(), [few]);
}

#[test]
fn every_damage_is_an_error() {
    let batch = mixed(50);
    let batches = [batch.clone(), batch.slice(0, 20)];
    let bytes = encode(&batches, Compression::Lz4);
    let mut random = StdRng::seed_from_u64(7);
    for round in 0..2000 {
        let mut damaged = bytes.clone();
        let at = random.random_range(0..bytes.len());
        match round % 4 {
            0 => damaged[at] ^= 1 << random.random_range(0..8),
            1 => damaged.truncate(at.max(1)),
            2 => drop(damaged.drain(at..(at + random.random_range(1..50)).min(bytes.len()))),
            _ => damaged.insert(at, random.random()),
        }
        let step = random.random_range(1..3000);
        let read = decode(&batch, &damaged, step);
        // Truncation between the frames gives the first frame and no more; a reader knows the stream's end.
        let whole_frames = read
            .as_ref()
            .is_ok_and(|read| *read == batches[..read.len()] && read.len() < 2);
        assert!(read.is_err() || whole_frames || damaged == bytes, "round {round}");
    }
}

#[test]
fn frames_of_another_place_are_refused() {
    let batch = mixed(10);
    let batches = [batch.clone(), batch.slice(0, 5), batch.slice(5, 5)];
    let first = encode(&batches[..1], Compression::None).len();
    let second = encode(&batches[..2], Compression::None).len();
    let bytes = encode(&batches, Compression::None);
    let swapped = [&bytes[..first], &bytes[second..]].concat();
    let error = decode(&batch, &swapped, 100).unwrap_err();
    assert!(matches!(error, FrameError::ChainMismatch { offset } if offset == first as u64));
    let error = decode(&batch, &bytes[first..], 100).unwrap_err();
    assert!(matches!(error, FrameError::ChainMismatch { offset: 0 }));
}

#[test]
fn reading_may_begin_at_any_frame() {
    let batch = mixed(10);
    let batches = [batch.clone(), batch.slice(0, 5), batch.slice(5, 5)];
    let first = encode(&batches[..1], Compression::Lz4).len();
    let second = encode(&batches[..2], Compression::Lz4).len();
    let bytes = encode(&batches, Compression::Lz4);
    let offset = first as u64;
    let mut decoder = FrameDecoder::starting_at(format(&batch, Compression::None), offset);
    assert_eq!(decoder.push(&bytes[first..]).unwrap(), batches[1..]);
    // From there on frames must follow each other.
    let mut decoder = FrameDecoder::starting_at(format(&batch, Compression::None), offset);
    decoder.push(&bytes[first..second]).unwrap();
    let error = decoder.push(&bytes[first..]).unwrap_err();
    assert!(matches!(error, FrameError::ChainMismatch { offset } if offset == second as u64));
    // Not within a frame.
    let mut decoder = FrameDecoder::starting_at(format(&batch, Compression::None), offset + 1);
    assert!(
        decoder
            .push(&bytes[first + 1..])
            .and_then(|_| decoder.finish())
            .is_err()
    );
}

/// Bytes whose checksum is right though a writer of this schema did not make them: another build, or an attack.
#[test]
fn bytes_that_arrow_refuses_are_an_error_and_no_panic() {
    let batch = mixed(50);
    let frame = encode(std::slice::from_ref(&batch), Compression::Lz4);
    let seal = |payload: &[u8]| {
        let length = payload.len() as u32;
        let digest = xxh3_64(payload);
        let chain = chained(digest, 0);
        let checksum = checksum(length, 50, chain, digest);
        let header = Header {
            length,
            rows: 50,
            checksum,
            chain,
        };
        [&header.to_bytes()[..], payload].concat()
    };
    let payload = &frame[HEADER_BYTES..];
    assert_eq!(seal(payload), frame);
    let mut random = StdRng::seed_from_u64(11);
    let mut refused = 0;
    for _ in 0..1500 {
        let mut changed = payload.to_vec();
        let at = random.random_range(0..changed.len());
        if random.random_bool(0.8) {
            // The metadata of the messages is what leads a decoder astray; keep lengths small.
            changed[at] = changed[at].wrapping_add(random.random_range(1..4));
        } else {
            changed.truncate(at);
        }
        match decode(&batch, &seal(&changed), 4096) {
            Ok(_) => {}
            Err(FrameError::Undecodable { offset: 0, .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 300, "{refused}");
    let other = RecordBatch::try_from_iter([("n", Arc::new(Int32Array::from(vec![1])) as ArrayRef)]).unwrap();
    assert!(decode(&other, &frame, 4096).is_err());
    assert!(decode(&batch, &seal(&[]), 4096).is_err());
}

/// A length is allocated before it is decompressed.
#[test]
fn no_buffer_says_to_be_longer_than_its_codec_can_make_it() {
    let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; 1 << 20]));
    let batch = RecordBatch::try_from_iter([("zeros", zeros)]).unwrap();
    for compression in [Compression::Lz4, Compression::Zstd] {
        let bytes = encode(std::slice::from_ref(&batch), compression);
        assert!(
            bytes.len() < 100_000,
            "{compression:?}: it is as small as it gets: {}",
            bytes.len()
        );
        assert_eq!(
            decode(&batch, &bytes, bytes.len()).unwrap(),
            std::slice::from_ref(&batch)
        );
        // The one length of the frame, made a gigabyte.
        let format = format(&batch, compression);
        let length = (8_i64 << 20).to_le_bytes();
        let at = bytes
            .windows(8)
            .position(|window| window == length)
            .expect("its length");
        let mut payload = bytes[HEADER_BYTES..].to_vec();
        payload[at - HEADER_BYTES..][..8].copy_from_slice(&(40_i64 << 30).to_le_bytes());
        let message = format.batch(&Buffer::from(payload)).unwrap_err();
        assert!(message.contains("cannot stand for"), "{message}");
    }
}
