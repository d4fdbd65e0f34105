//! The demo's broker: a young one in memory, without replication, good for a first look; and before it a gate at which a consumer
//! waits as it would at Kafka.
//!
//! The broker answers a fetch at once, also where there is nothing to fetch and the client is willing to wait: a consumer that has
//! caught up then asks without end, which takes a core.
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use noida::kafka::connection::handle_connection;
use noida::kafka::engine::Engine;

/// How long a fetch waits behind an answer that had nothing.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of an answer that may have records in it: what says of a few partitions that there is nothing new is shorter.
const ANSWER_MIN: usize = 1_024;
/// Bytes of a message; what says it is longer speaks another protocol.
const MESSAGE_MAX: usize = 256 << 20;
/// The number of `Fetch`: https://kafka.apache.org/protocol#protocol_api_keys.
const FETCH: [u8; 2] = [0, 1];

/// Listens on a free port of this machine, for as long as the process lives.
///
/// # Errors
/// No port is free.
pub(super) fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let engine = Engine::new(address.ip().to_string(), i32::from(address.port()));
    engine.spawn_log_cleaner();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let engine = engine.clone();
            thread::spawn(move || {
                if let Err(error) = relay(&client, engine) {
                    tracing::debug!(%error, "a connection to the demo's broker ended");
                }
            });
        }
    });
    Ok(address)
}

/// Passes requests on until the client has gone.
fn relay(client: &TcpStream, engine: Engine) -> io::Result<()> {
    let (own, theirs) = pair()?;
    thread::spawn(move || handle_connection(theirs, engine));
    client.set_nodelay(true)?;
    own.set_nodelay(true)?;
    let answered = Arc::new(AtomicUsize::new(usize::MAX));
    let (last, mut from, mut to) = (answered.clone(), own.try_clone()?, client.try_clone()?);
    let answers = thread::spawn(move || -> io::Result<()> {
        while let Some(answer) = message(&mut from)? {
            last.store(answer.len(), Ordering::Relaxed);
            to.write_all(&answer)?;
        }
        to.shutdown(Shutdown::Both)
    });
    let (mut from, mut to) = (client, &own);
    let asked = (|| {
        while let Some(request) = message(&mut from)? {
            if request[4..].starts_with(&FETCH) && answered.load(Ordering::Relaxed) < ANSWER_MIN {
                thread::sleep(PAUSE);
            }
            to.write_all(&request)?;
        }
        Ok(())
    })();
    // Also ends the thread of the answers.
    let closed = own.shutdown(Shutdown::Both);
    let answered = answers.join().unwrap_or(Ok(()));
    asked.and(answered).and(closed)
}

/// Two ends of a connection within this process.
fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let own = TcpStream::connect(listener.local_addr()?)?;
    loop {
        let (theirs, from) = listener.accept()?;
        // Somebody else could have found the port.
        if from == own.local_addr()? {
            return Ok((own, theirs));
        }
    }
}

/// A message of Kafka's protocol, with its length before it; `None` at the end.
fn message(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let bytes = usize::try_from(i32::from_be_bytes(length)).ok().filter(|bytes| *bytes <= MESSAGE_MAX);
    let Some(bytes) = bytes else { return Err(io::Error::new(io::ErrorKind::InvalidData, "no message of Kafka's")) };
    let mut message = length.to_vec();
    message.resize(4 + bytes, 0);
    from.read_exact(&mut message[4..])?;
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::Message;
    use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
    use rdkafka::statistics::Statistics;
    use rdkafka::{ClientContext, Offset, TopicPartitionList};

    use super::*;

    /// Counts a client's requests.
    #[derive(Clone, Default)]
    struct Requests(Arc<AtomicUsize>);

    impl ClientContext for Requests {
        fn stats(&self, statistics: Statistics) {
            let sent = statistics.brokers.values().map(|broker| broker.tx).sum::<u64>();
            self.0.store(sent as usize, Ordering::Relaxed);
        }
    }

    impl rdkafka::consumer::ConsumerContext for Requests {}

    #[test]
    fn what_is_written_is_read_and_who_has_read_all_asks_seldom() {
        let brokers = start().expect("a port").to_string();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &brokers).set("group.id", "g").set("statistics.interval.ms", "100");
        let producer: ThreadedProducer<DefaultProducerContext> = config.create().expect("a producer");
        for at in 0..1_000_u32 {
            let value = at.to_string().repeat(50);
            producer.send(BaseRecord::<(), _>::to("t").payload(&value).partition(0)).expect("queued");
        }
        producer.flush(Duration::from_secs(30)).expect("written");
        let requests = Requests::default();
        let consumer: BaseConsumer<Requests> = config.create_with_context(requests.clone()).expect("a consumer");
        let mut from = TopicPartitionList::new();
        from.add_partition_offset("t", 0, Offset::Beginning).expect("an offset");
        consumer.assign(&from).expect("assigned");
        let begin = Instant::now();
        for at in 0..1_000_u32 {
            let record = loop {
                assert!(begin.elapsed() < Duration::from_secs(60), "record {at} does not come");
                if let Some(record) = consumer.poll(Duration::from_millis(100)) {
                    break record.expect("a record");
                }
            };
            assert_eq!(record.payload(), Some(at.to_string().repeat(50).as_bytes()), "in their order");
        }
        // Until the counts are of a time in which there was nothing.
        assert!(consumer.poll(Duration::from_millis(500)).is_none(), "no more");
        let before = requests.0.load(Ordering::Relaxed);
        assert!(consumer.poll(Duration::from_secs(2)).is_none(), "no more");
        let asked = requests.0.load(Ordering::Relaxed) - before;
        // A pause of 20 ms; without one there are thousands.
        assert!((2..=150).contains(&asked), "{asked} requests in two seconds");
    }

    #[test]
    fn who_speaks_another_protocol_is_shown_out() {
        let mut client = TcpStream::connect(start().expect("a port")).expect("connected");
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("written");
        client.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        assert_eq!(client.read(&mut [0; 10]).expect("closed, not kept waiting"), 0);
    }
}
