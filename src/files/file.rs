//! A file of events, on disk or fetched: what it is, how many events it has, and these one after the other.
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::{Buf as _, Bytes};
use flate2::read::MultiGzDecoder;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::reader::ChunkReader;

use super::flat::{in_utc, nested};
use super::line::{elements, mentions};
use crate::reference::{fetch, json_lines, local};

/// Rows of a Parquet file that are JSON at a time. Larger needs more memory; smaller costs time between batches.
pub(super) const ROWS_A_BATCH: usize = 1024;
/// What is read of a file of lines at a time.
const READ_BYTES: usize = 64 << 10;
/// How a Parquet file begins, and ends.
const MAGIC: [u8; 4] = *b"PAR1";
/// The fewest bytes of a Parquet file: its magic twice, and the length of its footer.
const PARQUET_BYTES_MIN: u64 = 12;
/// What [`inline_label`](super::line::inline_label) needs.
const LABEL_COLUMNS: [&str; 5] = ["prediction_id", "model_name", "timestamp", "label", "label_timestamp"];

pub(super) struct EventFile {
    pub(super) name: String,
    place: Place,
    form: Form,
    pub(super) total: i64,
    /// Some event may have an inline label.
    pub(super) may_have_labels: bool,
}

enum Place {
    Disk(PathBuf),
    /// From an object store, or from a pipe, which can be read only once.
    Memory(Bytes),
}

enum Form {
    Text,
    PackedText,
    Parquet,
}

/// What is taken of a file.
#[derive(Clone, Copy)]
pub(super) enum Take {
    Events,
    /// A label event for each event that has a label.
    InlineLabels,
}

impl EventFile {
    pub(super) async fn open(location: &Path, options: &BTreeMap<String, String>) -> Result<Self> {
        let name = location.display().to_string();
        let place = match local(&name).filter(|path| path.is_file()) {
            Some(path) => Place::Disk(path.to_owned()),
            None => Place::Memory(fetch(&name, options).await?),
        };
        let to_look_at = name.clone();
        let looked = tokio::task::spawn_blocking(move || Self::look(to_look_at, place)).await;
        looked.context("count the events")?.with_context(|| format!("read {name}"))
    }

    /// Finds out what a file is and how many events it has.
    fn look(name: String, place: Place) -> io::Result<Self> {
        let is_gz = Path::new(&name).extension().is_some_and(|extension| extension == "gz");
        // What was fetched is unpacked already.
        let is_packed = is_gz && matches!(place, Place::Disk(_));
        let form = if is_packed { Form::PackedText } else { Form::Text };
        let mut file = Self { name, place, form, total: 0, may_have_labels: false };
        let mut start = Vec::new();
        file.text()?.take(MAGIC.len() as u64).read_to_end(&mut start)?;
        if start == MAGIC {
            if is_packed {
                // Parquet is read from its end, so it has to be unpacked whole.
                let mut bytes = Vec::new();
                file.text()?.read_to_end(&mut bytes)?;
                file.place = Place::Memory(bytes.into());
            }
            file.form = Form::Parquet;
            let rows = file.rows(Take::Events)?;
            (file.total, file.may_have_labels) = (rows.total, rows.have_labels);
            return Ok(file);
        }
        let mut events = file.events(Take::Events)?;
        while let Some(event) = events.read()? {
            file.total += 1;
            file.may_have_labels = file.may_have_labels || mentions(&event, "\"label\"");
        }
        Ok(file)
    }

    pub(super) fn events(&self, take: Take) -> io::Result<Events> {
        let supply = match self.form {
            Form::Text | Form::PackedText => Supply::Lines(self.text()?),
            Form::Parquet => Supply::Rows(self.rows(take)?.reader),
        };
        Ok(Events { supply, ready: VecDeque::new() })
    }

    fn text(&self) -> io::Result<Box<dyn BufRead>> {
        let text: Box<dyn BufRead> = match (&self.place, &self.form) {
            (Place::Memory(bytes), _) => Box::new(bytes.clone().reader()),
            (Place::Disk(path), Form::PackedText) => {
                Box::new(BufReader::with_capacity(READ_BYTES, MultiGzDecoder::new(File::open(path)?)))
            }
            (Place::Disk(path), _) => Box::new(BufReader::with_capacity(READ_BYTES, File::open(path)?)),
        };
        Ok(text)
    }

    fn rows(&self, take: Take) -> io::Result<Rows> {
        match &self.place {
            Place::Disk(path) => rows_of(File::open(path)?, take),
            Place::Memory(bytes) => rows_of(bytes.clone(), take),
        }
    }
}

/// The rows of a Parquet file, and what it says of them.
struct Rows {
    total: i64,
    have_labels: bool,
    reader: ParquetRecordBatchReader,
}

fn rows_of<T: ChunkReader + 'static>(content: T, take: Take) -> io::Result<Rows> {
    let length = content.len();
    let end = content.get_bytes(length.saturating_sub(MAGIC.len() as u64), MAGIC.len()).map_err(io::Error::other)?;
    if length <= PARQUET_BYTES_MIN || end[..] != MAGIC {
        return Err(io::Error::other("a Parquet file that is cut short: its end is not there; copy or write it again"));
    }
    let builder = ParquetRecordBatchReaderBuilder::try_new(content).map_err(io::Error::other)?;
    let total = builder.metadata().file_metadata().num_rows();
    let have_labels = builder.schema().column_with_name("label").is_some();
    let columns = match take {
        Take::Events => ProjectionMask::all(),
        Take::InlineLabels => {
            let schema = builder.parquet_schema();
            let columns = schema.root_schema().get_fields().iter().enumerate();
            let wanted = columns.filter(|(_, column)| LABEL_COLUMNS.contains(&column.name()));
            ProjectionMask::roots(schema, wanted.map(|(place, _)| place))
        }
    };
    let builder = builder.with_batch_size(ROWS_A_BATCH).with_projection(columns);
    Ok(Rows { total, have_labels, reader: builder.build().map_err(io::Error::other)? })
}

/// The events of a file, one after the other. A line is held whole, and of Parquet a batch of rows.
pub(super) struct Events {
    supply: Supply,
    ready: VecDeque<Vec<u8>>,
}

enum Supply {
    Lines(Box<dyn BufRead>),
    Rows(ParquetRecordBatchReader),
}

impl Events {
    pub(super) fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        while self.ready.is_empty() {
            if !self.refill()? {
                return Ok(None);
            }
        }
        Ok(self.ready.pop_front())
    }

    /// Reads on, over a line of blanks too; `false` at the end.
    fn refill(&mut self) -> io::Result<bool> {
        match &mut self.supply {
            Supply::Lines(text) => {
                let mut line = Vec::new();
                if text.read_until(b'\n', &mut line)? == 0 {
                    return Ok(false);
                }
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                if !line.trim_ascii().is_empty() {
                    self.ready.extend(elements(line));
                }
            }
            Supply::Rows(reader) => {
                let Some(batch) = reader.next() else { return Ok(false) };
                let batch = batch.and_then(|batch| nested(&in_utc(&batch)?)).map_err(io::Error::other)?;
                let lines = json_lines(&[batch]).map_err(io::Error::other)?;
                let rows = lines.split(|byte| *byte == b'\n').filter(|row| !row.is_empty());
                self.ready.extend(rows.map(<[u8]>::to_vec));
            }
        }
        Ok(true)
    }
}
