//! Lines of text. Readers of CSV and JSON assume lines of reasonable length, and scans of file ranges assume that every
//! line break ends a row.

use std::io::{self, BufReader, Read};
use std::ops::Range;

use ::arrow::csv::reader::Format;
use ::arrow::datatypes::Schema;
use ::arrow::error::ArrowError;
use ::arrow::json::reader::infer_json_schema_from_iterator;
use serde_json::Value;

use super::{CheckError, OpenFile};

/// Most bytes of one row: a reader holds a whole row, several times over while it decodes.
pub const MAX_ROW_BYTES: u64 = 4 << 20;
/// Rows of a CSV file for type inference, and most bytes that it reads.
const SAMPLED_ROWS: usize = 1000;
const SAMPLED_BYTES: u64 = 8 << 20;
/// Bytes that are read at once.
const CHUNK: u64 = 256 << 10;

/// What ends a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Every line is a JSON object.
    Json,
    /// A line break outside quotes.
    Csv(Quoting),
}

/// How values of CSV are quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoting {
    pub delimiter: u8,
    pub quote: u8,
    pub escape: Option<u8>,
    /// Whether values may contain line breaks within quotes. Otherwise they are a fault, because files are split at
    /// line breaks.
    pub line_breaks: bool,
}

/// What is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowFault {
    Long,
    QuotedLineBreak,
    OpenQuote,
    NoObject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    ValueStart,
    Plain,
    Quoted,
    Escaped,
    /// A quote within quotes: the end of them, or one of two.
    QuoteInQuoted,
}

/// Finds row ends as the readers do.
struct Scanner {
    rows: Rows,
    state: State,
    /// Bytes of the row so far.
    length: u64,
    /// The first and the last non-space byte of the row.
    ends: Option<(u8, u8)>,
    longest: u64,
}

impl Scanner {
    fn new(rows: Rows) -> Self {
        Self {
            rows,
            state: State::ValueStart,
            length: 0,
            ends: None,
            longest: 0,
        }
    }

    /// Consumes a byte. Returns whether it ends a row.
    fn take(&mut self, byte: u8) -> Result<bool, RowFault> {
        let ended = match self.rows {
            Rows::Json => {
                if !byte.is_ascii_whitespace() {
                    self.ends = Some((self.ends.map_or(byte, |(first, _)| first), byte));
                }
                byte == b'\n'
            }
            Rows::Csv(quoting) => self.take_csv(byte, quoting)?,
        };
        if ended {
            self.end()?;
            return Ok(true);
        }
        self.length += 1;
        if self.length > MAX_ROW_BYTES {
            return Err(RowFault::Long);
        }
        Ok(false)
    }

    fn take_csv(&mut self, byte: u8, quoting: Quoting) -> Result<bool, RowFault> {
        let is_break = matches!(byte, b'\n' | b'\r');
        let unquoted = if byte == quoting.delimiter {
            State::ValueStart
        } else {
            State::Plain
        };
        self.state = match self.state {
            State::Quoted | State::Escaped if byte == b'\n' && !quoting.line_breaks => {
                return Err(RowFault::QuotedLineBreak);
            }
            State::Escaped => State::Quoted,
            State::Quoted if byte == quoting.quote => State::QuoteInQuoted,
            State::Quoted if Some(byte) == quoting.escape => State::Escaped,
            State::Quoted => State::Quoted,
            State::ValueStart | State::Plain | State::QuoteInQuoted if is_break => {
                return Ok(true);
            }
            State::ValueStart | State::QuoteInQuoted if byte == quoting.quote => State::Quoted,
            State::ValueStart | State::Plain | State::QuoteInQuoted => unquoted,
        };
        Ok(false)
    }

    /// The end of the file ends its last row.
    fn end_file(&mut self) -> Result<(), RowFault> {
        match self.state {
            // Readers take all rows behind the quote for one value.
            State::Quoted | State::Escaped => Err(RowFault::OpenQuote),
            State::ValueStart | State::Plain | State::QuoteInQuoted => self.end(),
        }
    }

    fn end(&mut self) -> Result<(), RowFault> {
        self.longest = self.longest.max(self.length);
        self.length = 0;
        self.state = State::ValueStart;
        match self.ends.take() {
            None | Some((b'{', b'}')) => Ok(()),
            Some(_) => Err(RowFault::NoObject),
        }
    }
}

/// Checks the rows that a scan of `bytes` reads: from the first line that starts there to the line of its last byte.
/// Returns the bytes of the longest one.
pub(super) fn check_rows(file: &OpenFile, bytes: &Range<u64>, rows: Rows) -> Result<u64, CheckError> {
    let mut scanner = Scanner::new(rows);
    let mut at = bytes.start.saturating_sub(1);
    // A line that starts before the range belongs to the previous range.
    let mut skips = bytes.start > 0;
    while at < file.size {
        let chunk = read(file, at)?;
        for byte in chunk {
            at += 1;
            if skips {
                skips = byte != b'\n';
            } else if at > bytes.end && scanner.length == 0 {
                return Ok(scanner.longest);
            } else {
                scanner
                    .take(byte)
                    .map_err(|fault| row_error(file, at - 1, fault))?;
            }
            if skips && at >= bytes.end {
                return Ok(0);
            }
        }
    }
    let row = at.saturating_sub(scanner.length);
    scanner.end_file().map_err(|fault| row_error(file, row, fault))?;
    Ok(scanner.longest)
}

fn read(file: &OpenFile, at: u64) -> Result<Vec<u8>, CheckError> {
    let read = file.read(at, CHUNK.min(file.size - at))?;
    Ok(read.unwrap_or_default())
}

fn row_error(file: &OpenFile, at: u64, fault: RowFault) -> CheckError {
    let what = match fault {
        RowFault::Long => {
            format!("has more than {MAX_ROW_BYTES} bytes: break it up, or close the quotes in it")
        }
        RowFault::QuotedLineBreak => {
            "has a line break within quotes, and options.newlinesInValues is false: remove that option"
                .to_owned()
        }
        RowFault::OpenQuote => "begins a quoted value that is not closed: close it".to_owned(),
        RowFault::NoObject => "is no JSON object: write each row as one line, from { to }".to_owned(),
    };
    match line_of(file, at) {
        Ok(line) => CheckError::Text(format!("line {line} {what}")),
        Err(fault) => fault,
    }
}

/// The number of the line that has this byte.
fn line_of(file: &OpenFile, byte: u64) -> Result<u64, CheckError> {
    let (mut line, mut at) = (1, 0);
    while at < byte.min(file.size) {
        let chunk = read(file, at)?;
        let before = usize::try_from(byte - at).unwrap_or(usize::MAX).min(chunk.len());
        let breaks = chunk.iter().take(before).filter(|byte| **byte == b'\n').count();
        line += u64::try_from(breaks).unwrap_or(0);
        at += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
    }
    Ok(line)
}

/// The columns of a CSV file, inferred from its first rows.
pub(super) fn csv_schema(file: &OpenFile, quoting: Quoting, format: &Format) -> Result<Schema, CheckError> {
    let mut scanner = Scanner::new(Rows::Csv(quoting));
    let (mut sample, mut rows, mut complete) = (Vec::new(), 0, 0);
    let mut at = 0;
    'rows: while at < file.size.min(SAMPLED_BYTES) {
        for byte in read(file, at)? {
            at += 1;
            sample.push(byte);
            if scanner
                .take(byte)
                .map_err(|fault| row_error(file, at - 1, fault))?
            {
                rows += 1;
                complete = sample.len();
                if rows > SAMPLED_ROWS {
                    break 'rows;
                }
            }
        }
    }
    if at < file.size {
        sample.truncate(complete);
    }
    let (schema, _) = format
        .infer_schema(sample.as_slice(), Some(SAMPLED_ROWS))
        .map_err(|error| CheckError::Text(cause(&error)))?;
    Ok(schema)
}

/// The columns of all rows of a JSON file.
pub(super) fn json_schema(file: &OpenFile) -> Result<Schema, CheckError> {
    let mut reader = BufReader::with_capacity(64 << 10, Bounded { file, at: 0 });
    let (mut line, mut text) = (0_u64, Vec::new());
    let mut fault = None;
    let rows = std::iter::from_fn(|| {
        loop {
            line += 1;
            text.clear();
            let read = io::BufRead::read_until(&mut (&mut reader).take(MAX_ROW_BYTES + 1), b'\n', &mut text);
            match read {
                Ok(0) => return None,
                Ok(_) if text.iter().all(u8::is_ascii_whitespace) => {}
                Ok(read) if u64::try_from(read).unwrap_or(0) > MAX_ROW_BYTES => {
                    let problem = format!("line {line} has more than {MAX_ROW_BYTES} bytes: break it up");
                    fault = Some(CheckError::Text(problem));
                    return None;
                }
                Ok(_) => {
                    let row = serde_json::from_slice::<Value>(&text).map_err(|error| {
                        let error = error.to_string();
                        let cause = error.split(" at line ").next().unwrap_or_default();
                        ArrowError::JsonError(format!("line {line}: {cause}"))
                    });
                    return Some(row);
                }
                Err(error) => {
                    fault = Some(CheckError::Io(error));
                    return None;
                }
            }
        }
    });
    let schema = infer_json_schema_from_iterator(rows);
    match fault {
        Some(fault) => Err(fault),
        None => schema.map_err(|error| CheckError::Text(cause(&error))),
    }
}

fn cause(error: &ArrowError) -> String {
    match error {
        ArrowError::CsvError(cause) | ArrowError::JsonError(cause) => cause.clone(),
        other => other.to_string(),
    }
}

/// The bytes of a file that the manifest knows of; what was appended since is not read.
struct Bounded<'a> {
    file: &'a OpenFile,
    at: u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.file.size - self.at;
        let most = u64::try_from(buffer.len()).unwrap_or(u64::MAX).min(left);
        let bytes = self.file.read(self.at, most)?.unwrap_or_default();
        buffer
            .get_mut(..bytes.len())
            .map(|room| room.copy_from_slice(&bytes))
            .unwrap_or_default();
        self.at += u64::try_from(bytes.len()).unwrap_or(0);
        Ok(bytes.len())
    }
}
