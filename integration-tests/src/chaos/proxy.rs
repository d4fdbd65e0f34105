//! A proxy before an HTTP store, which can do to a request what networks and servers do.
//!
//! ```text
//! process ──► Door (a port of its own) ──► trouble? ──► the store
//! ```
//!
//! Each process has a door of its own, so that it can be killed at one of its own writes. Requests are passed on as they came,
//! so their signatures hold.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinHandle;

/// The longest that an answer is held back; a client that waits longer has no time-out.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Bytes of a request or of its answer: more than any object of a test has.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// How much later a write takes effect that nobody waits for any more.
const LATE_MILLIS: std::ops::Range<u64> = 200..6_000;
/// How long a slow store takes.
const SLOW_MILLIS: std::ops::Range<u64> = 50..1_500;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The connection is reset before anything has reached the store.
    ResetBefore,
    /// The store has done it; the connection is cut before the answer.
    CutAfter,
    /// Half of the answer comes, then the connection is cut.
    CutInAnswer,
    /// 429, and nothing done.
    Busy,
    /// 503, and nothing done.
    Unavailable,
    /// The store has done it, and 503 comes instead of its answer.
    UnavailableAfter,
    /// Nothing reaches the store and no answer comes.
    StallBefore,
    /// The store has done it and no answer comes.
    StallAfter,
    /// No answer comes, and when the client has long given up the store does it after all.
    Late,
    /// It takes its time.
    Slow,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Trouble; 10] = [
        Trouble::ResetBefore,
        Trouble::CutAfter,
        Trouble::CutInAnswer,
        Trouble::Busy,
        Trouble::Unavailable,
        Trouble::UnavailableAfter,
        Trouble::StallBefore,
        Trouble::StallAfter,
        Trouble::Late,
        Trouble::Slow,
    ];

    /// Those that are over at once; the others cost a client its time-out.
    pub const QUICK: [Trouble; 7] = [
        Trouble::ResetBefore,
        Trouble::CutAfter,
        Trouble::CutInAnswer,
        Trouble::Busy,
        Trouble::Unavailable,
        Trouble::UnavailableAfter,
        Trouble::Slow,
    ];
}

/// On which side of its effect a process dies at a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The write has not reached the store.
    Before,
    /// The store has done it, and its answer is on the way.
    After,
}

/// The proxy: what its doors have in common.
#[derive(Clone, Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    chance: Mutex<StdRng>,
    weather: Mutex<Weather>,
    counts: Mutex<BTreeMap<Trouble, Counts>>,
}

#[derive(Clone, Debug, Default)]
struct Weather {
    share: f64,
    kinds: Vec<Trouble>,
}

/// How often one kind of trouble befell reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// `GET`, `HEAD` and listings.
    pub reads: u64,
    /// `PUT`, `DELETE` and deletions by `POST`.
    pub writes: u64,
}

/// A port at which one process finds the store.
#[derive(Debug)]
pub struct Door {
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
    state: Arc<DoorState>,
    serving: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct DoorState {
    deadly: Mutex<Option<Deadly>>,
    puts: AtomicU64,
    killed: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Deadly {
    process: u32,
    at_put: u64,
    side: Side,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Before the store at `http://HOST:PORT`. There is no trouble until some is asked for; `seed` decides whom it befalls.
    pub fn new(endpoint: &str, seed: u64) -> Self {
        let upstream = endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let chance = Mutex::new(StdRng::seed_from_u64(seed));
        let (weather, counts) = (Mutex::default(), Mutex::default());
        Proxy { shared: Arc::new(Shared { upstream, chance, weather, counts }) }
    }

    /// From now on a share in `[0, 1]` of the requests meets trouble of these kinds.
    pub fn trouble(&self, share: f64, kinds: &[Trouble]) {
        *lock(&self.shared.weather) = Weather { share, kinds: kinds.to_vec() };
    }

    /// No trouble from now on. What is stalled stays stalled.
    pub fn calm(&self) {
        *lock(&self.shared.weather) = Weather::default();
    }

    /// What has befallen requests so far.
    pub fn counts(&self) -> BTreeMap<Trouble, Counts> {
        lock(&self.shared.counts).clone()
    }

    /// Opens a door at a free port.
    pub async fn open(&self) -> Result<Door> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
        let endpoint = format!("http://{}", listener.local_addr().context("ask for the address")?);
        let (shared, state) = (Arc::clone(&self.shared), Arc::<DoorState>::default());
        let of_door = Arc::clone(&state);
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, Arc::clone(&shared), Arc::clone(&of_door)));
            }
        });
        Ok(Door { endpoint, state, serving })
    }
}

impl Door {
    /// The process is killed at its `nth` write from now on (the first is 1), on that side of its effect.
    pub fn kill_at(&self, process: u32, nth: u64, side: Side) {
        let at_put = self.state.puts.load(Ordering::SeqCst) + nth;
        *lock(&self.state.deadly) = Some(Deadly { process, at_put, side });
    }

    /// Takes a plan to kill back; whether there was one that had not come true.
    pub fn spare(&self) -> bool {
        lock(&self.state.deadly).take().is_some()
    }

    /// How often a process was killed at a write here.
    pub fn killed(&self) -> u64 {
        self.state.killed.load(Ordering::SeqCst)
    }

    /// Writes that came, but for those of probes and heartbeats.
    pub fn puts(&self) -> u64 {
        self.state.puts.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct Request {
    method: String,
    target: String,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Request {
    fn is_read(&self) -> bool {
        self.method == "GET" || self.method == "HEAD"
    }

    /// What a process writes to do its work.
    fn is_work(&self) -> bool {
        self.method == "PUT" && !self.target.contains("/.probe/") && !self.target.contains("/live/")
    }
}

/// Serves one connection until one side has enough.
async fn serve(mut client: TcpStream, shared: Arc<Shared>, door: Arc<DoorState>) {
    let mut rest = Vec::new();
    while let Ok(Some(request)) = read_request(&mut client, &mut rest).await {
        if let Some(deadly) = door.claims(&request) {
            if deadly.side == Side::After {
                let _applied = forward(&shared.upstream, &request).await;
            }
            let killed = Command::new("kill").args(["-KILL", &deadly.process.to_string()]).status().await;
            door.killed.fetch_add(u64::from(killed.is_ok_and(|status| status.success())), Ordering::SeqCst);
            return reset(client);
        }
        let trouble = shared.draw(&request);
        if handle(&mut client, &shared.upstream, request, trouble).await != Some(()) {
            return reset(client);
        }
    }
}

impl DoorState {
    /// Counts a write; the plan to kill, if this is the one.
    fn claims(&self, request: &Request) -> Option<Deadly> {
        if !request.is_work() {
            return None;
        }
        let nth = self.puts.fetch_add(1, Ordering::SeqCst) + 1;
        lock(&self.deadly).take_if(|deadly| deadly.at_put <= nth)
    }
}

impl Shared {
    fn draw(&self, request: &Request) -> Option<Trouble> {
        let weather = lock(&self.weather).clone();
        let mut chance = lock(&self.chance);
        if weather.kinds.is_empty() || !chance.random_bool(weather.share.clamp(0.0, 1.0)) {
            return None;
        }
        let trouble = weather.kinds[chance.random_range(0..weather.kinds.len())];
        let mut counts = lock(&self.counts);
        let of_kind = counts.entry(trouble).or_default();
        *if request.is_read() { &mut of_kind.reads } else { &mut of_kind.writes } += 1;
        Some(trouble)
    }
}

/// Answers a request, or does not. `None`: the connection is to be cut.
async fn handle(client: &mut TcpStream, upstream: &str, request: Request, trouble: Option<Trouble>) -> Option<()> {
    let pause = |range: std::ops::Range<u64>| Duration::from_millis(rand::random_range(range));
    match trouble {
        None => pass(client, upstream, &request).await,
        Some(Trouble::Slow) => {
            tokio::time::sleep(pause(SLOW_MILLIS)).await;
            pass(client, upstream, &request).await
        }
        Some(Trouble::ResetBefore) => None,
        Some(Trouble::CutAfter) => {
            let _applied = forward(upstream, &request).await;
            None
        }
        Some(Trouble::CutInAnswer) => {
            let answer = forward(upstream, &request).await?;
            let _cut_anyway = client.write_all(&answer[..answer.len() / 2]).await;
            None
        }
        Some(Trouble::Busy) => refuse(client, &request, "429 Too Many Requests", "SlowDown").await,
        Some(Trouble::Unavailable) => refuse(client, &request, "503 Service Unavailable", "SlowDown").await,
        Some(Trouble::UnavailableAfter) => {
            let _applied = forward(upstream, &request).await;
            refuse(client, &request, "503 Service Unavailable", "InternalError").await
        }
        Some(Trouble::StallBefore) => stall(client).await,
        Some(Trouble::StallAfter) => {
            let _applied = forward(upstream, &request).await;
            stall(client).await
        }
        Some(Trouble::Late) => {
            let (upstream, late) = (upstream.to_owned(), pause(LATE_MILLIS));
            tokio::spawn(async move {
                tokio::time::sleep(late).await;
                forward(&upstream, &request).await
            });
            stall(client).await
        }
    }
}

async fn pass(client: &mut TcpStream, upstream: &str, request: &Request) -> Option<()> {
    let answer = forward(upstream, request).await?;
    client.write_all(&answer).await.ok()
}

async fn refuse(client: &mut TcpStream, request: &Request, status: &str, code: &str) -> Option<()> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>planned</Message></Error>");
    let shown = if request.method == "HEAD" { "" } else { &body };
    let answer =
        format!("HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{shown}", shown.len());
    client.write_all(answer.as_bytes()).await.ok()
}

/// Says nothing until the client gives up.
async fn stall(client: &mut TcpStream) -> Option<()> {
    let mut byte = [0];
    let _gone = tokio::time::timeout(STALL_MAX, client.read(&mut byte)).await;
    None
}

/// The store's whole answer, made fit for a connection that goes on; `None` if it gave none.
async fn forward(upstream: &str, request: &Request) -> Option<Vec<u8>> {
    let exchange = async {
        let mut store = TcpStream::connect(upstream).await.ok()?;
        let line_end = find(&request.head, b"\r\n")? + 2;
        // Not among the signed headers; it makes the answer end with the connection.
        let mut message = request.head[..line_end].to_vec();
        message.extend_from_slice(b"Connection: close\r\n");
        message.extend_from_slice(&request.head[line_end..]);
        message.extend_from_slice(&request.body);
        store.write_all(&message).await.ok()?;
        let mut answer = Vec::new();
        store.take(MESSAGE_BYTES_MAX as u64).read_to_end(&mut answer).await.ok()?;
        (!answer.is_empty()).then_some(answer)
    };
    let answer = tokio::time::timeout(STALL_MAX, exchange).await.ok().flatten()?;
    Some(without_close(answer))
}

/// Takes `Connection: close` out of an answer whose end its head tells.
fn without_close(answer: Vec<u8>) -> Vec<u8> {
    let Some(end) = find(&answer, b"\r\n\r\n") else { return answer };
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let tells_its_end = head.split("\r\n").any(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("content-length:") || line.starts_with("transfer-encoding:")
    });
    if !tells_its_end {
        return answer;
    }
    let kept: Vec<&str> =
        head.split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("connection:")).collect();
    let mut message = kept.join("\r\n").into_bytes();
    message.extend_from_slice(&answer[end..]);
    message
}

/// The next request of a connection; `None` at its end.
async fn read_request(client: &mut TcpStream, rest: &mut Vec<u8>) -> std::io::Result<Option<Request>> {
    let end = loop {
        match find(rest, b"\r\n\r\n") {
            Some(at) => break at + 4,
            None if !read_more(client, rest).await? => return Ok(None),
            None => {}
        }
    };
    let head: Vec<u8> = rest.drain(..end).collect();
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut first = text.split_whitespace();
    let (method, target) = (first.next().unwrap_or_default().to_owned(), first.next().unwrap_or_default().to_owned());
    let length = text.split("\r\n").filter_map(|line| line.split_once(':'));
    let mut length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.find_map(|(_, value)| value.trim().parse().ok()).unwrap_or(0);
    while rest.len() < length.min(MESSAGE_BYTES_MAX) {
        if !read_more(client, rest).await? {
            return Ok(None);
        }
    }
    let body = rest.drain(..length.min(rest.len())).collect();
    Ok(Some(Request { method, target, head, body }))
}

async fn read_more(client: &mut TcpStream, rest: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut chunk = vec![0; 64 << 10];
    let read = client.read(&mut chunk).await?;
    rest.extend_from_slice(&chunk[..read]);
    Ok(read > 0)
}

/// Cuts a connection so that the other side sees it at once.
fn reset(client: TcpStream) {
    // Should it not be granted, the connection is closed in the ordinary way, when it is dropped.
    let _granted = client.set_zero_linger();
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers every request with its target, and counts them.
    async fn echo() -> (String, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let count = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let request = read_request(&mut client, &mut Vec::new()).await.unwrap().unwrap();
                    counted.fetch_add(1, Ordering::SeqCst);
                    let body = format!("{} {} {}", request.method, request.target, request.body.len());
                    let answer =
                        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    client.write_all(answer.as_bytes()).await.unwrap();
                });
            }
        });
        (endpoint, count)
    }

    async fn ask(door: &Door, method: &str, target: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(door.endpoint.trim_start_matches("http://")).await?;
        let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = vec![0; 1000];
        let mut length = 0;
        loop {
            match tokio::time::timeout(Duration::from_millis(700), stream.read(&mut answer[length..])).await {
                Ok(Ok(0)) => break,
                Ok(read) => length += read?,
                Err(_) if length > 0 => break,
                Err(_) => return Err(std::io::ErrorKind::TimedOut.into()),
            }
        }
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    #[tokio::test]
    async fn each_trouble_is_what_its_name_says() {
        let (endpoint, applied) = echo().await;
        for trouble in Trouble::ALL {
            let proxy = Proxy::new(&endpoint, 1);
            let door = proxy.open().await.unwrap();
            assert!(ask(&door, "PUT", "/calm").await.unwrap().ends_with("PUT /calm 3"));
            proxy.trouble(1.0, &[trouble]);
            let before = applied.load(Ordering::SeqCst);
            let answer = ask(&door, "PUT", "/b/x").await;
            let said = answer.as_deref().unwrap_or_default().to_owned();
            let whole = said.ends_with("PUT /b/x 3");
            let is_applied = applied.load(Ordering::SeqCst) > before;
            match trouble {
                Trouble::ResetBefore => assert!(!whole && !is_applied, "{said}"),
                Trouble::CutAfter => assert!(said.is_empty() && is_applied, "{said}"),
                // What had come is lost too, if the end comes before it is read.
                Trouble::CutInAnswer => {
                    assert!((said.is_empty() || said.starts_with("HTTP/1.1 200")) && !whole && is_applied, "{said}");
                }
                Trouble::Busy => assert!(said.starts_with("HTTP/1.1 429") && !is_applied, "{said}"),
                Trouble::Unavailable => assert!(said.starts_with("HTTP/1.1 503") && !is_applied, "{said}"),
                Trouble::UnavailableAfter => assert!(said.starts_with("HTTP/1.1 503") && is_applied, "{said}"),
                Trouble::StallBefore => assert!(answer.is_err() && !is_applied),
                Trouble::StallAfter => assert!(answer.is_err() && is_applied),
                Trouble::Late => {
                    assert!(answer.is_err());
                    while applied.load(Ordering::SeqCst) == before {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                Trouble::Slow => {
                    while applied.load(Ordering::SeqCst) == before {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
            assert_eq!(proxy.counts()[&trouble], Counts { reads: 0, writes: 1 });
        }
    }

    #[tokio::test]
    async fn a_process_dies_at_the_write_that_it_was_told() {
        let (endpoint, applied) = echo().await;
        for side in [Side::Before, Side::After] {
            let door = Proxy::new(&endpoint, 1).open().await.unwrap();
            let mut victim = Command::new("sleep").arg("60").kill_on_drop(true).spawn().unwrap();
            door.kill_at(victim.id().unwrap(), 2, side);
            ask(&door, "PUT", "/bucket/.probe/x").await.unwrap();
            ask(&door, "PUT", "/bucket/raw/1").await.unwrap();
            assert!(victim.try_wait().unwrap().is_none());
            let before = applied.load(Ordering::SeqCst);
            let cut = ask(&door, "PUT", "/bucket/raw/2").await;
            assert!(cut.is_err() || cut.is_ok_and(|said| said.is_empty()));
            assert_eq!(applied.load(Ordering::SeqCst) - before, u64::from(side == Side::After));
            victim.wait().await.unwrap();
            assert_eq!((door.killed(), door.puts(), door.spare()), (1, 2, false));
        }
    }
}
