//! The end of a Parquet object, where its footer lies.
use bytes::Bytes;

use crate::{Error, Store};

/// How much of an object's end is read at first: the footer of a usual object fits. Smaller costs a second request for each
/// object; larger reads data that nobody asked for.
const GUESS_BYTES: u64 = 64 << 10;

impl Store {
    /// The end of a Parquet object of one version, with its whole footer; `None` if there is no such object.
    pub async fn parquet_end(&self, path: &str) -> Result<Option<Bytes>, Error> {
        let Some(mut meta) = self.head(path).await? else { return Ok(None) };
        let mut guess = GUESS_BYTES;
        loop {
            let length = guess.min(meta.size);
            match self.get_range(path, meta.size - length..meta.size, Some(&meta.version)).await {
                Ok(end) => match footer_length(&end) {
                    Some(needed) if needed > length && length < meta.size => guess = needed,
                    _ => return Ok(Some(end)),
                },
                // Deleted or replaced between the two requests: it is another object now, or none.
                Err(Error::Changed { .. }) => {
                    let Some(now) = self.head(path).await? else { return Ok(None) };
                    meta = now;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Bytes from the footer's beginning to the object's end, from its last eight bytes.
fn footer_length(end: &[u8]) -> Option<u64> {
    let (rest, _magic) = end.split_last_chunk::<4>()?;
    let (_, length) = rest.split_last_chunk::<4>()?;
    Some(u64::from(u32::from_le_bytes(*length)) + 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something that ends as a Parquet object does: so many bytes of rows, and of a footer.
    fn object(rows: usize, footer: usize) -> Bytes {
        let length = (footer as u32).to_le_bytes();
        [vec![b'r'; rows], vec![b'f'; footer], length.to_vec(), b"PAR1".to_vec()].concat().into()
    }

    #[tokio::test]
    async fn the_whole_footer_is_read_however_long_it_is() {
        let store = Store::in_memory();
        assert_eq!(store.parquet_end("t/none.parquet").await.unwrap(), None);
        let guess = GUESS_BYTES as usize;
        for (rows, footer) in
            [(0, 0), (10, 20), (guess * 2, 20), (guess * 2, guess - 8), (guess * 2, guess - 7), (9, guess * 3)]
        {
            let bytes = object(rows, footer);
            store.put("t/a.parquet", bytes.clone()).await.unwrap();
            let end = store.parquet_end("t/a.parquet").await.unwrap().unwrap();
            assert!(bytes.ends_with(&end) && end.len() >= footer + 8, "{rows} and {footer}: {}", end.len());
            assert!(end.len() <= (footer + 8).max(guess), "{rows} and {footer}: {} are too many", end.len());
        }
        // What is no Parquet is returned as it is: whoever parses it says so.
        for bytes in ["", "short", "no parquet at all"] {
            store.put("t/a.parquet", bytes.into()).await.unwrap();
            assert_eq!(store.parquet_end("t/a.parquet").await.unwrap().unwrap(), bytes);
        }
    }
}
