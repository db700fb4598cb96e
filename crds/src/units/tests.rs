//! Reading and writing of units.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{BYTE_UNITS, ByteSize, MAX_BYTE_SIZE, Millis, quantity_bytes};

#[test]
fn sizes_are_read() {
    for (text, bytes) in [
        ("0", 0),
        ("1", 1),
        ("17B", 17),
        ("2k", 2_000),
        ("2KB", 2_000),
        ("128MiB", 128 << 20),
        ("1GB", 1_000_000_000),
        ("1Gi", 1 << 30),
        ("512Mi", 512 << 20),
        ("3T", 3_000_000_000_000),
    ] {
        assert_eq!(text.parse::<ByteSize>().map(ByteSize::bytes), Ok(bytes), "{text}");
    }
    for text in [
        "",
        "MiB",
        "-1",
        "+1",
        "1.5GiB",
        "1 GiB",
        "1gb",
        "1Pi",
        "1000000TiB",
        "1000000000000000000",
        "１GB",
    ] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
}

#[test]
fn a_canonical_size_reads_back() {
    for (unit, _, digits) in BYTE_UNITS {
        for number in [
            "9".repeat(digits),
            format!("1{}", "0".repeat(digits - 1)),
            "1".to_owned(),
            "1024".to_owned(),
        ] {
            let Ok(size) = format!("{number}{unit}").parse::<ByteSize>() else {
                assert!(number.len() > digits, "{number}{unit}");
                continue;
            };
            assert_eq!(size.to_string().parse(), Ok(size), "{number}{unit}");
        }
    }
    assert_eq!(
        ByteSize::from_bytes(MAX_BYTE_SIZE).to_string().parse(),
        Ok(ByteSize::from_bytes(MAX_BYTE_SIZE))
    );
    assert_eq!(ByteSize::from_mib(1536).to_string(), "1536MiB");
    assert_eq!(ByteSize::from_bytes(1000).to_string(), "1000");
}

#[test]
fn sizes_are_integers_or_texts_in_json_and_yaml() {
    assert_eq!(
        serde_json::from_str::<ByteSize>("1024").unwrap().to_string(),
        "1KiB"
    );
    assert_eq!(
        serde_yaml::from_str::<ByteSize>("1Gi").unwrap(),
        ByteSize::from_mib(1024)
    );
    assert_eq!(
        serde_json::to_string(&ByteSize::from_mib(128)).unwrap(),
        "\"128MiB\""
    );
    for json in ["-1", "1.5", "true", "null", "\"x\"", "1000000000000000001"] {
        assert!(serde_json::from_str::<ByteSize>(json).is_err(), "{json}");
    }
}

#[test]
fn spans_are_read_and_written() {
    for (text, millis, canonical) in [
        ("250ms", 250, "250ms"),
        ("0ms", 0, "0ms"),
        ("0h", 0, "0ms"),
        ("15s", 15_000, "15s"),
        ("60s", 60_000, "1m"),
        ("90m", 5_400_000, "90m"),
        ("999999999999h", 3_599_999_999_996_400_000, "999999999999h"),
    ] {
        let span: Millis = text.parse().unwrap();
        assert_eq!(
            (span.millis(), span.to_string().as_str()),
            (millis, canonical),
            "{text}"
        );
    }
    for text in [
        "",
        "1",
        "ms",
        "-1s",
        "1.5s",
        "1 s",
        "1d",
        "1000000000000ms",
        "1m30s",
    ] {
        assert!(text.parse::<Millis>().is_err(), "{text}");
    }
    assert!(serde_json::from_str::<Millis>("250").is_err());
    assert_eq!(
        std::time::Duration::from(Millis::from_millis(1500)).as_millis(),
        1500
    );
}

#[test]
fn a_message_quotes_no_more_than_it_must() {
    let error = "9".repeat(10_000).parse::<ByteSize>().unwrap_err().to_string();
    assert!(error.len() < 250, "{error}");
}

#[test]
fn quantities_are_exact() {
    let bytes = |text: &str| quantity_bytes(&Quantity(text.to_owned())).map(ByteSize::bytes);
    for (text, expected) in [
        ("0", Some(0)),
        ("2", Some(2)),
        ("1.5", Some(2)),
        ("1500m", Some(2)),
        ("1k", Some(1_000)),
        ("1.5Gi", Some(3 << 29)),
        ("64Mi", Some(64 << 20)),
        ("1P", Some(1_000_000_000_000_000)),
        ("16383Pi", Some(16383 << 50)),
        ("16384Pi", None),
        ("999999999999999Pi", None),
        ("1000000000000000", None),
        ("", None),
        ("Gi", None),
        ("1.Gi", None),
        (".5", None),
        ("-1", None),
        ("1e3", None),
        ("1GiB", None),
        ("0.1234567891", None),
    ] {
        assert_eq!(bytes(text), expected, "{text}");
    }
    for (size, expected) in [
        (ByteSize::from_mib(10 << 10), "10Gi"),
        (ByteSize::from_bytes(1001), "1001"),
    ] {
        let quantity = Quantity::from(size);
        assert_eq!(quantity.0, expected);
        assert_eq!(quantity_bytes(&quantity), Some(size));
    }
}
